# What the scripts share that build programs from the modules under e2e/tools. They set home, a folder
# under .tools, and source this; each module's binaries are kept there, keyed by its files and the flags,
# and linked from $home/bin.

fail() {
	echo "${0##*/}: $1" >&2
	exit 1
}

mkdir -p "$home/bin"

# timed WHAT COMMAND... says what runs, and that it still does.
timed() {
	local what=$1 began=$SECONDS ticker status=0
	shift
	echo "==> building $what"
	(while sleep 20; do echo "    $what: $((SECONDS - began)) s"; done) &
	ticker=$!
	"$@" || status=$?
	kill "$ticker" 2>/dev/null
	wait "$ticker" 2>/dev/null || true
	((status == 0)) || fail "$what does not build: see above"
	echo "    $what: built in $((SECONDS - began)) s"
}

# key NAME FLAGS... names the folder of one module's binaries.
key() {
	local name=$1
	shift
	{
		cat "e2e/tools/$name/go.mod" "e2e/tools/$name/go.sum"
		go env GOVERSION GOOS GOARCH
		printf '%s\n' "$@"
	} | sha256sum | cut -c 1-12
}

version() { sed -n "s#^\t$2 \(v[^ ]*\).*#\1#p" "e2e/tools/$1/go.mod"; }

# compile PACKAGE... fetches what packages are made of, again if a network fails, and makes them in $folder.part. It is build's, with its name and flags.
compile() {
	scripts/again go -C "e2e/tools/$name" list -deps "${flags[@]}" "$@" >/dev/null &&
		go -C "e2e/tools/$name" build "${flags[@]}" -o "$folder.part/" "$@"
}

# build NAME FLAGS... -- BINARY=PACKAGE... sets folder to where they are. One 'go build' makes all of a
# module: while it links one, which takes one core, it compiles what the others need.
build() {
	local name=$1 flags=() pair made
	shift
	while [[ $1 != -- ]]; do
		flags+=("$1")
		shift
	done
	shift
	folder=$home/$name-$(key "$name" "${flags[@]}" "$@")
	for pair in "$@"; do
		[[ -x $folder/${pair%%=*} ]] && continue
		rm -rf "$folder" "$folder.part"
		mkdir -p "$folder.part"
		timed "$name's ${*%%=*}" compile "${@#*=}"
		for pair in "$@"; do
			made=${pair#*=}
			made=${made%/v[0-9]} # as Go names it
			[[ ${made##*/} == "${pair%%=*}" ]] || mv "$folder.part/${made##*/}" "$folder.part/${pair%%=*}"
		done
		mv "$folder.part" "$folder"
		break
	done
	for pair in "$@"; do
		ln -sfn "../${folder##*/}/${pair%%=*}" "$home/bin/${pair%%=*}"
	done
}

command -v go >/dev/null || fail "Go is not in PATH; install the version that go.mod names"
# One build at a time: worktrees may share .tools.
exec 9>"$home/lock"
flock -n 9 || { echo "==> another build in $home runs; waiting for it" && flock 9; }

export CGO_ENABLED=0 GOFLAGS=''
plain=(-trimpath -buildvcs=false)
