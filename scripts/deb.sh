#!/usr/bin/env bash
# Builds a Debian package of the gateway: scripts/deb.sh [--binary FILE] [--output FOLDER].
# Without a binary it builds one (cargo build --release). Needs dpkg-deb, and nothing else of
# Debian's tools; prints the path of the package.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=
output=artifacts
while [ $# -gt 0 ]; do
    case $1 in
        --binary) binary=$2 && shift 2 ;;
        --output) output=$2 && shift 2 ;;
        *) echo "usage: scripts/deb.sh [--binary FILE] [--output FOLDER]" >&2 && exit 2 ;;
    esac
done

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
architecture=$(dpkg --print-architecture)
if [ -z "$binary" ]; then
    cargo build --release --locked --bin corecast >&2
    target=$(cargo metadata --format-version 1 --no-deps | grep -o '"target_directory":"[^"]*"')
    binary=$(cut -d'"' -f4 <<<"$target")/release/corecast
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
document=$root/usr/share/doc/corecast
install -D -m 755 "$binary" "$root/usr/bin/corecast"
strip --strip-unneeded "$root/usr/bin/corecast" 2>/dev/null || true
install -D -m 644 packaging/corecast.service "$root/usr/lib/systemd/system/corecast.service"
install -D -m 644 packaging/corecast.toml "$root/etc/corecast/corecast.toml"
install -D -m 644 LICENSE "$document/copyright"
install -m 644 README.md CHANGELOG.md "$document/"
if [ -e docs/configuration.md ]; then
    install -m 644 docs/configuration.md docs/gateway.md "$document/"
fi

# The libraries that the binary asks for, by the version of libc that this machine has.
libc=$(dpkg-query -W -f '${Version}' libc6 | sed 's/-.*//')
mkdir -p "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<CONTROL
Package: corecast
Version: $version
Architecture: $architecture
Maintainer: corecast <corecast@localhost>
Installed-Size: $(du -sk "$root" | cut -f1)
Depends: libc6 (>= $libc), libgcc-s1, passwd
Recommends: ca-certificates
Section: net
Priority: optional
Description: Socket.IO gateway for backends in any language
 A server for Socket.IO clients with an HTTP API, webhooks and authentication by tokens, in one
 binary and one configuration file. One shard per CPU core on io_uring.
CONTROL
echo /etc/corecast/corecast.toml >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    install -m 755 "packaging/deb/$script" "$root/DEBIAN/$script"
done

mkdir -p "$output"
package=$output/corecast_${version}_$architecture.deb
dpkg-deb --root-owner-group --build "$root" "$package" >&2
echo "$package"
