#!/bin/bash
# node.sh DIRECTORY HOSTNAME UID
#
# Process 1 of one launcher: a pod in KubeVirt, here a set of fresh namespaces
# (pid, mount, network, host name) that lab.py made.  Furnishes them and runs
# libvirtd as an unprivileged user, as KubeVirt does.
set -eu
directory=$1 hostname=$2 uid=$3

# Both nodes use the same path for the migration sockets, and the connecting and
# the listening end must still be different files: so each has a /run of its own.
mount --bind "$directory/run" /run
mount --bind "$directory/passwd" /etc/passwd
mount --bind "$directory/group" /etc/group
mount --bind "$directory/hosts" /etc/hosts	# or libvirt asks a name server for its own name
# Post-copy needs this device; the machine's own node keeps its permissions.
[ ! -e "$directory/userfaultfd" ] || mount --bind "$directory/userfaultfd" /dev/userfaultfd
hostname "$hostname"			# libvirt refuses to migrate to a host of the same name

cd /
home=/run/kubevirt-private
setpriv --reuid "$uid" --regid "$uid" --clear-groups \
	env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=$home XDG_RUNTIME_DIR=/run \
	XDG_CONFIG_HOME=$home/.config XDG_CACHE_HOME=$home/.cache XDG_DATA_HOME=$home/.local \
	libvirtd -f $home/.config/libvirt/libvirtd.conf &
# Ends with libvirtd, and the kernel then ends every QEMU with this namespace.
wait $!
