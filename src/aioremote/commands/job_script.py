r"""The far half of detached jobs: one POSIX-sh text that starts them, watches them and answers for them.

Not for talking to it: that is `aioremote.commands.jobs`. The text runs as ``sh -c 'eval "$1"' NAME TEXT VERB WORD…``
and hands itself on in the same way, so it travels once. Who is who:

- *launch* runs in the foreground of the connection: it looks for the program, makes the record, and *spawns*.
- *spawn* starts the watcher as the head of a pipeline, whose tail passes the watcher's one line on and then kills the
  shell that waits for both. So nothing is started with ``&``, which would leave the program deaf to INT and QUIT.
- *watch* is the one process that stays. In a session of its own, it waits for the program and writes how it ended.
- *begin*, in a session of its own again, becomes the program: a signal to the program's group spares the watcher.

The record is a directory that only the login can enter: ``life`` (who the two are, and when it began), ``status`` (how
it ended), ``stdout`` and ``stderr`` (the output, or a link to where it goes), and ``alive``, a FIFO that the watcher
holds open: who reads it waits for the watcher's end, however that comes, without asking again and again. ``life`` and
``status`` appear whole or not at all.

A number is taken for the process it once was only with that process's *birth*: boot id and start time in clock ticks,
or what ps calls lstart where there is no /proc.

What `wait` of a shell tells is 137 for ``exit 137`` and for KILL alike. But shells tell of a child that a signal killed
(dash, bash, busybox, ksh and mksh: "Killed") on their own standard error, which is a file here. For signals of which
this shell says nothing (INT and PIPE under most), tried out on the spot, the signal is what is reported.
"""

from __future__ import annotations

__all__ = ["RUN", "SCRIPT"]

RUN = (b"/bin/sh", b"-c", b'eval "$1"', b"aioremote-job")
"""What stands before the text, a verb and its words."""

# Variables have a prefix, since one that the environment exports already would reach the program.
SCRIPT = rb"""
aj_text=$1 aj_verb=$2
shift 2

aj_locate() {  # RECORDS ID: sets aj_jobs, aj_dir
 case $1 in
 ?*) aj_jobs=$1 ;;
 *)
  case ${XDG_STATE_HOME-} in
  /*) aj_jobs=$XDG_STATE_HOME/aioremote/jobs ;;
  *) case ${HOME-} in /*) aj_jobs=$HOME/.local/state/aioremote/jobs ;; *) echo homeless; exit 0 ;; esac ;;
  esac ;;
 esac
 aj_dir=$aj_jobs/$2
}

aj_born() {  # PID: sets aj_birth, empty where there is no such process, and aj_group
 aj_birth= aj_group=$1
 if [ -r /proc/self/stat ]; then
  aj_stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  set -- ${aj_stat##*\) }
  case $1 in Z | X) return 0 ;; esac
  aj_group=$3 aj_boot=
  shift 19
  read -r aj_boot 2>/dev/null </proc/sys/kernel/random/boot_id
  aj_birth=$aj_boot:$1
 else
  aj_birth=$(LC_ALL=C TZ=UTC0 ps -o lstart= -p "$1" 2>/dev/null | tr -s ' ' _)
 fi
}

aj_life() {
 aj_watcher= aj_watcher_birth= aj_pid= aj_pid_birth= aj_began=-
 [ -f "$aj_dir/life" ] && read -r aj_watcher aj_watcher_birth aj_pid aj_pid_birth aj_began <"$aj_dir/life"
}

aj_watched() { aj_born "$aj_watcher"; [ "$aj_birth" ] && [ "$aj_birth" = "$aj_watcher_birth" ]; }

aj_state() {  # sets aj_is
 [ -d "$aj_dir" ] || { echo unknown; printf %s "$aj_dir"; exit 0; }
 aj_life
 if [ -f "$aj_dir/status" ]; then aj_is=exited
 elif [ "$aj_watcher" ] && aj_watched; then aj_is=running
 elif [ -f "$aj_dir/status" ]; then aj_is=exited
 else aj_is=lost; fi
}

aj_tell() {
 aj_ended='- - -'
 [ $aj_is = exited ] && read -r aj_ended <"$aj_dir/status"
 echo "$aj_is $aj_began $aj_ended"
}

aj_until_end() {  # of the watcher
 if [ -p "$aj_dir/alive" ]; then
  exec 7<>"$aj_dir/alive" 8<"$aj_dir/alive" 7>&-
  read -r aj_nothing <&8
  exec 8<&-
 else
  while aj_watched; do sleep 1; done
 fi
}

aj_signal() { kill "-$1" "-$aj_pid"; command -v pkill >/dev/null && pkill "-$1" -s "$aj_pid"; }

aj_end() {  # SIGNAL LOOKS: only where the number still is the program's
 [ "$aj_pid" ] || return 0
 aj_born "$aj_pid"
 [ "$aj_birth" ] && [ "$aj_birth" = "$aj_pid_birth" ] && [ "$aj_group" = "$aj_pid" ] || return 0
 aj_signal "$1"
 [ "$2" ] || return 0
 aj_looks=0
 while [ $aj_looks -lt "$2" ] && kill -0 "-$aj_pid"; do
  sleep 0.02 || { sleep 1; aj_looks=$((aj_looks + 49)); }
  aj_looks=$((aj_looks + 1))
 done
 aj_signal KILL
}

aj_find() (  # NAME PATH: 0 where it can run, 1 where it is not there, 2 where it may not run
 set -f
 aj_name=$1 aj_poor=
 case $1 in */*) set -- '' ;; *) IFS=: ; set -- $2 ;; esac
 for aj_folder do
  case $aj_name in */*) aj_file=$aj_name ;; *) aj_file=${aj_folder:-.}/$aj_name ;; esac
  [ -x "$aj_file" ] && [ ! -d "$aj_file" ] && exit 0
  case $aj_name in
  */*) [ -e "$aj_file" ] && aj_poor=$aj_file ;;
  *) [ -f "$aj_file" ] && aj_poor=${aj_poor:-$aj_file} ;;
  esac
 done
 [ "$aj_poor" ] || exit 1
 printf %s "$aj_poor"
 exit 2
)

aj_refuse() { [ "$aj_made" ] && rm -rf "$aj_dir"; echo "$1"; printf %s "$2"; exit 0; }

aj_output() {  # FILE NAME: makes sure of a file that the caller names, and links it into the record
 aj_said=$( (: >>"$1") 2>&1) || aj_refuse "file $2" "$aj_said"
 case $1 in /*) aj_target=$1 ;; *) aj_target=$(pwd -P && echo .); aj_target=${aj_target%??}/$1 ;; esac
 ln -s "$aj_target" "$aj_dir/$2"
}

case $aj_verb in
launch)  # RECORDS ID STDOUT STDERR PATH ( =NAME VALUE | -NAME )... -- ARGV
 exec 2>/dev/null
 aj_made=
 aj_locate "$1" "$2"
 aj_out=$3 aj_err=$4 aj_path=${5:-$PATH} aj_names= aj_unset=
 shift 5
 while :; do
  case $1 in
  --) shift; break ;;
  -*) aj_unset="$aj_unset -u ${1#-}"; shift ;;
  =*)
   aj_name=${1#=}
   eval "aioremote_env_$aj_name=\$2"
   export "aioremote_env_$aj_name"
   aj_names="$aj_names $aj_name"
   shift 2 ;;
  esac
 done
 aj_said=$(aj_find "$1" "$aj_path")
 case $? in 1) aj_refuse absent "$aj_path" ;; 2) aj_refuse forbidden "$aj_said" ;; esac
 aj_born $$
 trap '[ -f "$aj_dir/life" ] || rm -rf "$aj_dir"; exit 1' HUP INT TERM
 [ "$aj_birth" ] || aj_refuse unsupported "neither /proc nor 'ps -o lstart=' tells when a process started"
 aj_new=setsid
 if ! command -v setsid >/dev/null; then
  aj_new=
  /bin/sh -c 'set -m; case $- in *m*) exit 0 ;; esac; exit 1' ||
   aj_refuse unsupported "no setsid, and no job control in /bin/sh"
 fi
 aj_said=$( (umask 077; mkdir -p "$aj_jobs" && mkdir -m 700 "$aj_dir") 2>&1) || aj_refuse record "$aj_jobs
$aj_said"
 aj_made=1
 [ "$aj_out" ] && aj_output "$aj_out" stdout
 [ "$aj_err" ] && aj_output "$aj_err" stderr
 mkfifo "$aj_dir/alive"
 /bin/sh -c 'eval "$1"' "$0" "$aj_text" spawn "$aj_dir" "$aj_new" "${aj_out:-$aj_dir/stdout}" \
  "${aj_err:-$aj_dir/stderr}" "$aj_names" "$aj_unset" "$@" </dev/null
 [ -f "$aj_dir/life" ] || rm -rf "$aj_dir"
 ;;

spawn)  # DIR NEW ...
 [ "$2" ] || set -m
 {
  exec $2 /bin/sh -c 'eval "$1"' "$0" "$aj_text" watch "$@" 3>&1 >/dev/null
 } | {
  read -r aj_line
  echo "$aj_line"
  kill -KILL $$
 }
 ;;

watch)  # DIR NEW WORD...
 trap : HUP INT QUIT TERM  # not '', which the program would inherit
 case ${BASH_VERSION-} in ?*) set +o posix ;; esac  # in that mode it does not tell of signals
 aj_dir=$1
 aj_new=$2
 shift 2
 [ "$aj_new" ] || set -m
 exec 2>"$aj_dir/said"
 [ -p "$aj_dir/alive" ] && exec 8<>"$aj_dir/alive"
 aj_born $$
 $aj_new /bin/sh -c 'eval "$1"' "$0" "$aj_text" begin "$aj_dir" "$$ $aj_birth" "$@" 3>&3 8>&-
 aj_code=$? aj_signal=-
 [ -f "$aj_dir/life" ] || { rm -rf "$aj_dir"; exit 1; }
 if [ $aj_code -gt 128 ]; then
  aj_name=$(kill -l $aj_code 2>/dev/null)
  if [ -s "$aj_dir/said" ]; then
   aj_signal=${aj_name:--}
  else
   case $aj_name in
   '' | STOP | TSTP | TTIN | TTOU) ;;  # these end nobody
   *)
    LC_ALL=C /bin/sh -c 'ulimit -c 0; kill "-$1" $$' sh "$aj_name"
    [ $? -eq $aj_code ] && [ ! -s "$aj_dir/said" ] && aj_signal=$aj_name ;;
   esac
  fi
 fi
 rm -f "$aj_dir/said"
 echo "$aj_code $aj_signal $(date +%s)" >"$aj_dir/status.new" && mv "$aj_dir/status.new" "$aj_dir/status"
 exit 0
 ;;

begin)  # DIR WATCHER STDOUT STDERR NAMES UNSET ARGV
 aj_dir=$1 aj_names=$5 aj_unset=$6
 aj_born $$
 aj_life="$2 $$ $aj_birth $(date +%s)"
 exec >"$3" || exit 1
 if [ "$3" = "$4" ]; then exec 2>&1; else exec 2>"$4" || exit 1; fi
 shift 6
 echo "$aj_life" >"$aj_dir/life.new" && mv "$aj_dir/life.new" "$aj_dir/life" || exit 1
 (trap '' PIPE; echo "begun" >&3) 2>/dev/null || { rm -f "$aj_dir/life"; exit 1; }
 case $1 in *=*) set -- /bin/sh -c 'exec "$0" "$@"' "$@" ;; esac  # env would take it for a variable
 for aj_name in $aj_names; do
  eval "set -- \"\$aj_name=\$aioremote_env_$aj_name\" \"\$@\"; unset aioremote_env_$aj_name"
 done
 [ -f "$aj_dir/life" ] || exit 1  # undone meanwhile
 : >"$aj_dir/said"  # of what a shell may say of its locale
 exec env $aj_unset "$@" 3>&-
 ;;

undo)  # RECORDS ID
 exec 2>/dev/null
 aj_locate "$1" "$2"
 aj_life
 aj_end TERM 25
 rm -rf "$aj_dir"
 echo done
 ;;

status)
 aj_locate "$1" "$2"
 aj_state
 aj_tell
 ;;

wait)
 aj_locate "$1" "$2"
 aj_state
 if [ $aj_is = running ]; then aj_until_end; aj_state; fi
 aj_tell
 ;;

kill)  # RECORDS ID SIGNAL LOOKS: no LOOKS for the signal alone
 exec 2>/dev/null
 aj_locate "$1" "$2"
 aj_state
 if [ $aj_is != exited ]; then
  aj_end "$3" "$4"
  [ $aj_is = running ] && [ "$4" ] && aj_until_end
  aj_state
 fi
 aj_tell
 ;;

forget)
 aj_locate "$1" "$2"
 [ -d "$aj_dir" ] || { echo done; exit 0; }
 aj_state
 [ $aj_is = running ] && { echo running; exit 0; }
 aj_said=$(rm -rf "$aj_dir" 2>&1) && { echo done; exit 0; }
 echo record
 printf '%s\n%s' "$aj_dir" "$aj_said"
 ;;

tail)  # RECORDS ID STREAM OFFSET MOST
 aj_locate "$1" "$2"
 aj_state
 [ -f "$aj_dir/$3" ] || { echo "missing $3"; exit 0; }
 aj_start=$4
 if [ "$aj_start" -lt 0 ]; then
  aj_size=$(wc -c <"$aj_dir/$3")
  aj_start=$((aj_size + aj_start))
  [ "$aj_start" -ge 0 ] || aj_start=0
 fi
 echo "from $aj_start"
 tail -c "+$((aj_start + 1))" "$aj_dir/$3" | head -c "$5"
 ;;

follow)  # RECORDS ID STREAM OFFSET
 aj_locate "$1" "$2"
 aj_state >/dev/null
 [ $aj_is = running ] || exit 0
 tail -c "+$(($4 + 1))" -f "$aj_dir/$3" 2>/dev/null &
 aj_until_end
 kill $!
 ;;
esac
"""
