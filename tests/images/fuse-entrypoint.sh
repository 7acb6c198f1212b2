#!/bin/bash
# A FUSE client as the first process of a container, in the place of a Fluid runtime's own.
#   FLUID_FUSE_MOUNTPOINT  where to mount (/jfs/jindofs-fuse)
#   FUSE_KIND              bindfs: a directory of this container or node, FUSE_SOURCE
#                          s3fs: the bucket FUSE_SOURCE (BUCKET or BUCKET:/DIR) at FUSE_ENDPOINT
#   FUSE_DEAD              what to do about a dead mount at the mount point:
#                          unmount (default), stack (mount on top of it) or refuse (end until it is gone)
#   FUSE_MODE              ro (default) or rw
#   FUSE_FSNAME            what the source in the mount table ends with: /dev/fuse as JindoFS has it
#   FUSE_DELAY             seconds to wait before mounting
# Keys for s3fs are files of /token or the variables AWSACCESSKEYID and AWSSECRETACCESSKEY.
set -u
point=${FLUID_FUSE_MOUNTPOINT:-/jfs/jindofs-fuse}
kind=${FUSE_KIND:-bindfs}
dead=${FUSE_DEAD:-unmount}
name=${FUSE_FSNAME:-/dev/fuse}
options=${FUSE_MODE:-ro},fsname=$name,allow_other
daemon=

say() { echo "$(date +%T) $*" >&2; }

# The first process of a PID namespace gets no signal that it has no handler for.
finish() {
  say "told to end"
  [ -z "$daemon" ] || kill -KILL "$daemon" 2>/dev/null
  exit 143
}
trap finish TERM INT

# Succeeds when the mount point is a mount that does not answer.
is_dead() { stat "$1" 2>&1 >/dev/null | grep -q 'not connected'; }

layers() { awk -v point="$1" '$5 == point' /proc/self/mountinfo | wc -l; }

serve() {
  case $kind in
    bindfs)
      # bindfs names its source directory in the mount table, whatever fsname says.
      mkdir -p "/srv$name" && mount --bind "${FUSE_SOURCE:-/source}" "/srv$name" || exit 1
      # On the mount of another pod of the same host path, which a client of its own does not refuse.
      bindfs -f -o "$options,nonempty" "/srv$name" "$1" &
      ;;
    s3fs)
      if [ -e /token ]; then
        AWSACCESSKEYID=$(cat /token/*/AccessKeyId)
        AWSSECRETACCESSKEY=$(cat /token/*/AccessKeySecret)
      fi
      export AWSACCESSKEYID AWSSECRETACCESSKEY
      s3fs "$FUSE_SOURCE" "$1" -f -o "$options,url=$FUSE_ENDPOINT,use_path_request_style,nonempty" \
        -o stat_cache_expire=1,retries=2 &
      ;;
    *)
      say "FUSE_KIND is bindfs or s3fs, not $kind"
      exit 2
      ;;
  esac
  daemon=$!
}

# libfuse asks the mount point before it mounts, which a dead one does not survive. A client with a
# mount call of its own does not ask; the kernel sees the same when a mount made elsewhere is moved on top.
stack() {
  local aside=/run/aside before
  before=$(layers "$point")
  mkdir -p "$aside"
  mount -t tmpfs aside "$aside" && mount --make-private "$aside"
  mkdir -p "$aside/mount"
  serve "$aside/mount"
  until [ "$(layers "$aside/mount")" -gt 0 ]; do
    kill -0 "$daemon" || { say "the client did not mount"; exit 1; }
    sleep 0.02
  done
  mount --bind "$aside/mount" "$point"
  umount -l "$aside"
  [ "$(layers "$point")" -gt "$before" ] || say "nothing was stacked"
}

# A delay and the wait for the daemon are waits of the shell, which a signal ends.
[ -z "${FUSE_DELAY:-}" ] || { sleep "$FUSE_DELAY" & wait $!; }
if is_dead "$point"; then
  say "found a dead mount, $(layers "$point") in all: $dead"
  case $dead in
    unmount) while is_dead "$point"; do umount -l "$point"; done ;;
    refuse) exit 1 ;;
  esac
fi
if [ "$dead" = stack ]; then
  is_dead "$point" || mkdir -p "$point"
  stack
else
  mkdir -p "$point" || exit 1
  serve "$point"
fi
say "$kind is process $daemon"
wait "$daemon"
status=$?
say "$kind ended with status $status"
exit $status
