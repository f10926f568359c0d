#!/bin/sh
# Unpack Debian's redis-server and the libraries it lacks below a folder, without root and without installing anything.
# Where there is no apt, or it reaches no archive, that is said, and the tests of Debian's Redis are skipped.
set -eu
mkdir -p "$1"
into=$(cd "$1" && pwd)
if command -v redis-server >/dev/null || [ -x /usr/bin/redis-server ]; then exit 0; fi
if ! command -v apt-get >/dev/null; then
    echo "no apt-get here, and no redis-server: its tests will be skipped" >&2
    exit 0
fi
mkdir -p "$into/state/lists/partial" "$into/cache/archives/partial"
own() {
    apt-get -qq -o Dir::State="$into/state" -o Dir::State::status=/var/lib/dpkg/status -o Dir::Cache="$into/cache" \
        -o Debug::NoLocking=1 -o APT::Sandbox::User= "$@" >/dev/null
}
if ! { own update && own install -y --no-install-recommends --download-only redis-server; }; then
    echo "Debian's redis-server could not be downloaded: its tests will be skipped" >&2
    rm -rf "$into/state" "$into/cache"
    exit 0
fi
for package in "$into"/cache/archives/*.deb; do dpkg-deb -x "$package" "$into/root"; done
rm -rf "$into/state" "$into/cache"
cat >"$into/redis-server" <<SERVER
#!/bin/sh
LD_LIBRARY_PATH=$(echo "$into"/root/usr/lib/*-linux-gnu*) exec "$into/root/usr/bin/redis-server" "\$@"
SERVER
chmod +x "$into/redis-server"
