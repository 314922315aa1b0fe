#!/bin/sh
# Make a system service of an inference-exporter that is installed in a virtual environment.
#   install.sh [--without-docker]    user, /etc/inference-exporter, units
#   install.sh --remove              the units and the user; /etc/inference-exporter stays
# It comes with the package: PREFIX/share/inference-exporter/systemd/install.sh, where PREFIX is the
# environment it makes a service of (PREFIX= names another one). Run again after an upgrade.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
user=inference-exporter
etc=/etc/inference-exporter
units=/etc/systemd/system
docker=yes
remove=no
for argument in "$@"; do
  case $argument in
  --without-docker) docker=no ;;
  --remove) remove=yes ;;
  *) sed -n '2,6s/^# //p' "$0" >&2; exit 2 ;;
  esac
done
[ "$(id -u)" -eq 0 ] || { echo "install.sh: must be root" >&2; exit 1; }

if [ $remove = yes ]; then
  systemctl disable --now inference-exporter.socket inference-exporter.service 2>/dev/null || true
  rm -f "$units/inference-exporter.service" "$units/inference-exporter.socket"
  systemctl daemon-reload
  if id "$user" >/dev/null 2>&1; then userdel "$user"; fi
  echo "removed; left as they are: $etc and the virtual environment"
  exit 0
fi

prefix=${PREFIX:-$(cd "$here/../../.." && pwd)}
[ -x "$prefix/bin/inference-exporter" ] ||
  { echo "install.sh: no $prefix/bin/inference-exporter; say PREFIX=" >&2; exit 1; }

getent group "$user" >/dev/null || groupadd --system "$user"
id "$user" >/dev/null 2>&1 ||
  useradd --system --gid "$user" --home-dir / --no-create-home --shell /usr/sbin/nologin "$user"
# The groups that own the container engine's socket, and a GPU where the driver is set up so.
for group in docker video render; do
  [ "$group:$docker" = docker:no ] && continue
  getent group "$group" >/dev/null || continue
  usermod --append --groups "$group" "$user"
  [ "$group" != docker ] ||
    echo "$user joined the group docker, which is as good as root (--without-docker: it does not)"
done

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
systemctl daemon-reload
echo "now: systemctl enable --now inference-exporter"
