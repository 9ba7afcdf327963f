"""redis-py and asyncpg through a machine, against the real servers."""

import asyncio
import os
import stat
import tempfile
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from tests.integrations.conftest import Certificate, listening

from aioremote import Machine, SshMachine, TunnelError
from aioremote.integrations.redis import connection_pool
from aioremote.integrations.sockets import postgres_folder, private_socket
from aioremote.testing.proxy import TcpProxy

pytestmark = pytest.mark.usefixtures("aioremote_no_leaks")


async def test_redis_without_a_local_port(machine: Machine, redis_ports: tuple[int, int]) -> None:
    """Part 5, deliver 3: values, pipelines, subscriptions."""
    before = listening()
    async with Redis.from_pool(connection_pool(machine, "127.0.0.1", redis_ports[0], db=3)) as redis:
        value = os.urandom(1_000_000)
        await redis.set("key", value)
        assert await redis.get("key") == value
        async with redis.pipeline() as pipe:
            assert await pipe.incr("n").incr("n").delete("n").execute() == [1, 2, 1]
        async with redis.pubsub() as heard:
            await heard.subscribe("news")
            assert (await heard.get_message(timeout=5) or {})["type"] == "subscribe"
            await redis.publish("news", "here")
            assert (await heard.get_message(timeout=5) or {})["data"] == b"here"
        assert listening() == before
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(redis.incr("many")) for _ in range(50)]
        assert sorted(task.result() for task in tasks) == list(range(1, 51))
        await redis.flushdb()


async def test_redis_with_tls(machine: Machine, redis_ports: tuple[int, int], certificate: Certificate) -> None:
    pool = connection_pool(machine, "localhost", redis_ports[1], ssl_context=certificate.client)
    async with Redis.from_pool(pool) as redis:
        assert await redis.echo("x" * 100_000) == b"x" * 100_000


async def test_redis_connects_again_where_its_server_has_let_go(machine: Machine, redis_ports: tuple[int, int]) -> None:
    pool = connection_pool(machine, port=redis_ports[0], retry=Retry(NoBackoff(), 1))
    async with Redis.from_pool(pool) as redis:
        number = await redis.client_id()
        async with Redis.from_pool(connection_pool(machine, port=redis_ports[0])) as other:
            await other.client_kill_filter(_id=str(number))
        assert await redis.ping()
        assert await redis.client_id() != number


async def test_redis_is_told_of_a_lost_link(lossy: tuple[SshMachine, TcpProxy], redis_ports: tuple[int, int]) -> None:
    """Promise 131."""
    machine, link = lossy
    async with Redis.from_pool(connection_pool(machine, port=redis_ports[0])) as redis:
        await redis.ping()
        link.cut()
        with pytest.raises(RedisConnectionError, match=r"through ssh://.* broke"):
            await redis.ping()
        with pytest.raises(RedisConnectionError, match="lost"):
            await redis.ping()


async def test_postgres_without_a_local_port(machine: Machine, postgres: int) -> None:
    """Part 5, deliver 3: a pool, a large answer, COPY, a notification; nobody else can reach the socket."""
    before = listening()
    async with postgres_folder(machine, postgres) as folder:
        assert listening() == before
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        pool = await asyncpg.create_pool(
            host=folder, port=5432, user="app", database="postgres", min_size=2, max_size=5
        )
        async with pool:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(pool.fetchval("SELECT $1::int * 2", number)) for number in range(50)]
            assert [task.result() for task in tasks] == [2 * number for number in range(50)]
            rows = await pool.fetch("SELECT n, repeat('x', 1000) AS text FROM generate_series(1, 2000) AS n")
            assert [row["n"] for row in rows] == list(range(1, 2001))
            async with pool.acquire() as connection:
                await connection.execute("CREATE TEMPORARY TABLE t (n int)")
                assert (
                    await connection.copy_records_to_table("t", records=[(n,) for n in range(10_000)]) == "COPY 10000"
                )
                heard = asyncio.get_running_loop().create_future()

                def hear(*said: object) -> None:
                    heard.set_result(said[-1])

                await connection.add_listener("news", hear)
                await pool.execute("NOTIFY news, 'here'")
                assert await heard == "here"
                await connection.remove_listener("news", hear)
    assert not os.path.exists(folder)


async def test_postgres_is_told_of_a_lost_link(lossy: tuple[SshMachine, TcpProxy], postgres: int) -> None:
    """Promise 131."""
    machine, link = lossy
    async with postgres_folder(machine, postgres) as folder:
        connection = await asyncpg.connect(host=folder, port=5432, user="app", database="postgres")
        assert await connection.fetchval("SELECT 1") == 1
        link.cut()
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError)):
            await connection.fetchval("SELECT pg_sleep(60)")
        connection.terminate()


async def test_a_private_socket_for_any_client(machine: Machine, redis_ports: tuple[int, int]) -> None:
    async with private_socket(machine, redis_ports[0], host="127.0.0.1") as path:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        async with Redis(unix_socket_path=path) as redis:
            assert await redis.ping()
    assert not os.path.exists(os.path.dirname(path))


async def test_a_private_socket_that_cannot_be_leaves_nothing(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(TunnelError, match="no-such-host"):
        async with private_socket(machine, 80, host="no-such-host.invalid"):
            pass
    assert list(tmp_path.iterdir()) == []
