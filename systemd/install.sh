#!/bin/sh
# Installs a systemd service for an inference-exporter in a virtual environment.
#   install.sh [--without-docker] [--kernel-log]
#                                    creates the user, /etc/inference-exporter and the units;
#                                    --kernel-log: and the drop-in to read XIDs from the kernel's log
#   install.sh --remove              removes the units and the user; keeps /etc/inference-exporter
# The wheel contains it: PREFIX/share/inference-exporter/systemd/install.sh, with PREFIX the virtual
# environment (override with PREFIX=). Run it again after an upgrade.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
user=inference-exporter
etc=/etc/inference-exporter
units=/etc/systemd/system
drop_ins=$units/inference-exporter.service.d
docker=yes
kernel_log=no
remove=no
for argument in "$@"; do
  case $argument in
  --without-docker) docker=no ;;
  --kernel-log) kernel_log=yes ;;
  --remove) remove=yes ;;
  *) sed -n '2,8s/^# //p' "$0" >&2; exit 2 ;;
  esac
done
[ "$(id -u)" -eq 0 ] || { echo "install.sh: must be root" >&2; exit 1; }

if [ $remove = yes ]; then
  systemctl disable --now inference-exporter.socket inference-exporter.service 2>/dev/null || true
  rm -f "$units/inference-exporter.service" "$units/inference-exporter.socket" \
    "$drop_ins/kernel-log.conf"
  rmdir "$drop_ins" 2>/dev/null || true
  systemctl daemon-reload
  if id "$user" >/dev/null 2>&1; then userdel "$user"; fi
  echo "removed the units and the user; kept $etc and the virtual environment"
  exit 0
fi

prefix=${PREFIX:-$(cd "$here/../../.." && pwd)}
[ -x "$prefix/bin/inference-exporter" ] ||
  { echo "install.sh: no $prefix/bin/inference-exporter; set PREFIX=" >&2; exit 1; }

getent group "$user" >/dev/null || groupadd --system "$user"
id "$user" >/dev/null 2>&1 ||
  useradd --system --gid "$user" --home-dir / --no-create-home --shell /usr/sbin/nologin "$user"
# Groups of the container engine's socket and, with some driver setups, of /dev/nvidia*.
for group in docker video render; do
  [ "$group:$docker" = docker:no ] && continue
  getent group "$group" >/dev/null || continue
  usermod --append --groups "$group" "$user"
  [ "$group" != docker ] ||
    echo "added $user to the group docker, which is equivalent to root (--without-docker skips this)"
done

# A virtual environment of a Python in a home folder (pyenv, uv), or made with umask 077.
runuser -u "$user" -- "$prefix/bin/inference-exporter" --version >/dev/null 2>&1 ||
  echo "install.sh: warning: the user $user cannot run $prefix/bin/inference-exporter: make $prefix" \
    "readable for all, with a Python that is, such as /usr/bin/python3" >&2

install -d -m 750 -o root -g "$user" "$etc"
for file in config.yaml environment; do
  [ -e "$etc/$file" ] || install -m 640 -o root -g "$user" "$here/$file" "$etc/$file"
done
for unit in inference-exporter.service inference-exporter.socket; do
  [ -e "$here/$unit" ] || continue
  sed "s|/opt/inference-exporter/|$prefix/|" "$here/$unit" >"$units/$unit.new"
  chmod 644 "$units/$unit.new"
  mv "$units/$unit.new" "$units/$unit"
done
if [ $kernel_log = yes ]; then
  install -d -m 755 "$drop_ins"
  install -m 644 "$here/inference-exporter.service.d/kernel-log.conf" "$drop_ins/kernel-log.conf"
fi
systemctl daemon-reload
echo "next: systemctl enable --now inference-exporter"
