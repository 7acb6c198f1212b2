# The mount namespace that a DaemonSet gives to the plugin: a root of its own, kubelet's directory
# shared with the node (Bidirectional), MOUNT_ROOT a slave (HostToContainer), all else private.
# $1 is a private mount that is to be the root.
set -e
room=$1
mount --rbind "$room" "$room"
for path in /*; do
  name=${path#/}
  case $name in
    room | old) continue ;;
    kubelet) kind=rshared ;;
    runtime-mnt) kind=rslave ;;
    *) kind=rprivate ;;
  esac
  if [ -L "$path" ]; then
    cp -P "$path" "$room/$name"
  elif [ -d "$path" ]; then
    mkdir "$room/$name"
    mount --rbind --make-$kind "$path" "$room/$name"
  fi
done
mkdir "$room/old"
cd "$room"
pivot_root . old
mount --make-rslave /old
umount -l /old
echo ready
exec sleep infinity
