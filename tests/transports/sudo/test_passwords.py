"""`ask_once` by itself: one asks and tries, the others wait for the outcome."""

import asyncio

import pytest

from aioremote import AuthenticationError, PasswordProvider, PasswordRequest, ask_once
from aioremote.transports.passwords import AskOnce


def request(host: str, user: str = "u", attempt: int = 1) -> PasswordRequest:
    return PasswordRequest(host=host, user=user, attempt=attempt)


async def ask(source: PasswordProvider, host: str) -> str:
    return await source(request(host))


class Asked:
    """Answers in turn, the last one for ever."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, int]] = []

    async def __call__(self, request: PasswordRequest) -> str:
        self.asked.append((request.host, request.user, request.attempt))
        await asyncio.sleep(0)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def test_nobody_else_has_it_before_it_has_proven_right() -> None:
    source, given = AskOnce(Asked("p")), list[str]()

    async def use(host: str) -> None:
        async with source.trial(request(host)) as trial:
            await trial.password()
            given.append(host)
            await asyncio.sleep(0)
            if len(given) == 1:
                trial.accepted()

    async with source.trial(request("first")) as trial:
        assert await trial.password() == "p"
        others = [asyncio.get_running_loop().create_task(use(host)) for host in ("a", "b", "c")]
        await asyncio.sleep(0.01)
        assert given == []
        trial.accepted()
    await asyncio.wait(others)
    assert sorted(given) == ["a", "b", "c"]


async def test_a_password_right_elsewhere_and_wrong_here_concerns_this_host_alone() -> None:
    provider = Asked("p")
    source = AskOnce(provider)
    async with source.trial(request("good")) as trial:
        await trial.password()
        trial.accepted()
    async with source.trial(request("bad")) as trial:
        await trial.password()
        with pytest.raises(AuthenticationError, match="bad: wrong password for u"):
            await trial.password()
    async with source.trial(request("good too")) as trial:
        assert await trial.password() == "p"
    assert provider.asked == [("good", "u", 1)]


async def test_another_answer_is_tried_and_the_same_one_is_not() -> None:
    provider = Asked("x", "y", "x")
    source = AskOnce(provider)
    async with source.trial(request("h")) as trial:
        assert [await trial.password(), await trial.password()] == ["x", "y"]
        with pytest.raises(AuthenticationError, match="wrong password"):
            await trial.password()
    assert [attempt for _, _, attempt in provider.asked] == [1, 2, 3]
    async with source.trial(request("other")) as trial:
        with pytest.raises(AuthenticationError, match="other: the password for u was refused on h"):
            await trial.password()


async def test_each_user_has_a_password_of_its_own() -> None:
    provider = Asked("1", "2")
    both = ask_once(provider)
    assert [await both(request("h", "a")), await both(request("h", "b")), await both(request("i", "a"))] == [
        "1",
        "2",
        "1",
    ]
    with pytest.raises(AuthenticationError, match="refused on h"):
        await both(request("h", "a", 2))


async def test_who_cannot_be_asked_is_asked_once() -> None:
    asked = 0

    async def fails(_: PasswordRequest) -> str:
        nonlocal asked
        asked += 1
        raise OSError("no terminal")

    source = ask_once(fails)
    for host in ("a", "b"):
        with pytest.raises(AuthenticationError, match=f"{host}: there is no password for u"):
            await source(request(host))
    assert asked == 1


@pytest.mark.parametrize(("answer", "error"), [("a\nb", ValueError), ("a\0", ValueError), (None, TypeError)])
async def test_what_is_no_password_is_refused(answer: str, error: type[Exception]) -> None:
    async def provider(_: PasswordRequest) -> str:
        return answer

    with pytest.raises(error, match="password provider returned"):
        await ask_once(provider)(request("h"))


async def test_a_cancelled_question_is_asked_again() -> None:
    waiting = asyncio.Event()

    async def provider(request: PasswordRequest) -> str:
        if request.host == "first":
            waiting.set()
            await asyncio.Event().wait()
        return "p"

    source = ask_once(provider)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(ask(source, "first"))
        await waiting.wait()
        first.cancel()
    assert await source(request("second")) == "p"


def test_nothing_of_it_is_shown() -> None:
    async def provider(_: PasswordRequest) -> str:
        return "secret word"

    source = AskOnce(provider)
    asyncio.run(source(request("h")))
    assert "secret word" not in repr([source, vars(source), *source._users.values()])
