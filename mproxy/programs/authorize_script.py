"""What `mproxy authorize` has the server's sh do: find the sproxy running there, and exchange keys with its files.

Variables set in front of it: line (for authorized_keys), key (in that line), renews (yes: the line has an expiry),
port, directory (may be empty), mproxy (the command). Between BEGIN and END it prints

    refused WHY                      nothing was changed
    added FILE | present FILE        the line is in there
    expired FILE | renewed FILE      an expired line with the key was there: nothing was changed; or ours, with another
                                     expiry, is now after it
    is LINE                          present, expired: a line that already has the key
    -----BEGIN CERTIFICATE----- ...  of the host's key, if there is one

Where sproxy keeps its files is read from the command line and environment of the process that listens on the port. If
this login may not read them they are assumed to be like its own, and that is checked: a running sproxy has a host key.
"""

# Everything of interest is between these lines: a login shell may print something before and after them.
BEGIN, END = "mproxy-authorize-begin", "mproxy-authorize-end"

SCRIPT = r"""
set -u
umask 077
me=$(id -u)
echo mproxy-authorize-begin

finish() { echo mproxy-authorize-end; exit 0; }
refuse() { echo "refused $*"; finish; }

# "INODE UID" of each socket that listens on $port here.
listeners() {
    cat /proc/net/tcp /proc/net/tcp6 2> /dev/null |
        awk -v end=":$(printf %04X "$port")" '$4 == "0A" && substr($2, length($2) - 4) == end { print $10, $8 }'
}
uid_of() { awk '$1 == "Uid:" { print $3 }' "/proc/$1/status" 2> /dev/null; }
# The words behind sproxy on a process's command line; nothing for other programs.
words_of() {
    { tr '\000' '\n' < "/proc/$1/cmdline"; } 2> /dev/null | awk 'found { print } $0 ~ "(^|/)sproxy$" { found = 1 }'
}
# The value of option $1 among the words on standard input.
option() {
    awk -v name="$1" 'next_is_it { value = $0 } { next_is_it = ($0 == name) }
        index($0, name "=") == 1 { value = substr($0, length(name) + 2) } END { print value }'
}
variable() { printf '%s\n' "$environment" | sed -n "s/^$1=//p" | head -n 1; }
absolute() {
    case $1 in
        /* | "") printf '%s\n' "$1" ;;
        *) at=$(readlink "/proc/$pid/cwd" 2> /dev/null) && printf '%s\n' "$at/$1" ;;
    esac
}
here() {
    theirs=$(readlink "/proc/$1/ns/net" 2> /dev/null) || return 0
    [ "$theirs" = "$(readlink /proc/self/ns/net)" ]
}
# Whether process $1 holds a socket that listens on the port, as far as this login may see.
holds() {
    files=$(ls -l "/proc/$1/fd" 2> /dev/null) || return 0
    for inode in $inodes; do
        case $files in *"socket:[$inode]"*) return 0 ;; esac
    done
    return 1
}

found=$(listeners)
inodes=$(printf '%s\n' "$found" | awk '{ print $1 }')
owners=" $(printf '%s\n' "$found" | awk '{ print $2 }' | sort -u | tr '\n' ' ')"
pid= elsewhere=
for process in /proc/[0-9]*; do
    number=${process#/proc/}
    words=$(words_of "$number")
    [ -n "$words" ] && here "$number" || continue
    uid=$(uid_of "$number")
    if printf '%s\n' "$words" | grep -qx "$port"; then
        case $owners in *" $uid "*) holds "$number" && pid=$number ;; esac
    elif [ "$uid" = "$me" ] && [ -r "/proc/$number/environ" ]; then
        elsewhere=$(printf '%s\n' "$words" | grep -x '[0-9][0-9]*' | tail -n 1)
    fi
done

dir=$directory keys= host=
if [ -n "$found" ] && [ -z "$directory" ]; then
    [ -n "$pid" ] || refuse "what listens on port $port is not an sproxy that this login can see:" \
        "give its key directory with --remote-dir"
    uid=$(uid_of "$pid")
    [ "$me" = 0 ] || [ "$me" = "$uid" ] || refuse "sproxy on port $port runs as" \
        "$(getent passwd "$uid" 2> /dev/null | cut -d: -f1) (user $uid): log in as that user or as root, or give" \
        "its key directory with --remote-dir"
    words=$(words_of "$pid")
    keys=$(absolute "$(printf '%s\n' "$words" | option --authorized-keys)")
    host=$(absolute "$(printf '%s\n' "$words" | option --host-key)")
    dir=$(absolute "$(printf '%s\n' "$words" | option --state-dir)")
    environment=$({ tr '\000' '\n' < "/proc/$pid/environ"; } 2> /dev/null)
    [ -n "$environment" ] || environment=$(env)
    if [ -z "$dir" ]; then
        dir=$(variable STATE_DIRECTORY | cut -d: -f1)
        state=$(variable XDG_STATE_HOME)
        if [ -z "$dir" ]; then
            case $state in
                /*) dir=$state/mproxy ;;
                *) if [ "$uid" = 0 ]; then dir=/var/lib/mproxy; else dir=$(variable HOME)/.local/state/mproxy; fi ;;
            esac
        fi
    fi
elif [ -z "$directory" ]; then
    [ -z "$elsewhere" ] || refuse "nothing listens on port $port, but an sproxy runs on port $elsewhere:" \
        "use --port $elsewhere if it is that one, otherwise give the key directory with --remote-dir"
    case ${XDG_STATE_HOME:-} in
        /*) dir=$XDG_STATE_HOME/mproxy ;;
        *) if [ "$me" = 0 ]; then dir=/var/lib/mproxy; else dir=$HOME/.local/state/mproxy; fi ;;
    esac
fi
keys=${keys:-$dir/authorized_keys}
host=${host:-$dir/host-key.pem}
if [ -n "$found" ] && [ ! -e "$host" ]; then
    refuse "sproxy runs on port $port, but its key is not $host: give its key directory with --remote-dir"
fi

mkdir -p "$(dirname "$keys")" || exit 3
# What root makes for sproxy must be sproxy's: its directory says whose.
# Of lines on standard input those that count now, as far as `expiry=` goes (mproxy/policy/grants.py), in this host's
# time, which is sproxy's.
current() {
    awk -v local="$(date +%Y%m%d%H%M%S)" -v utc="$(date -u +%Y%m%d%H%M%S)" '{
        options = tolower(substr($0, 1, index($0, "mproxy-ed25519") - 1))
        if (!match(options, /(^|,)expiry="?[^",]*/)) { print; next }
        value = substr(options, RSTART, RLENGTH)
        sub(/^[^=]*="?/, "", value)
        now = value ~ /z *$/ ? utc : local
        gsub(/[^0-9]/, "", value)
        digits = length(value)
        while (length(value) < 14) value = value "0"
        if ((digits != 8 && digits != 12 && digits != 14) || value "" > now "") print
    }'
}
with_key() { [ ! -e "$keys" ] || grep -v '^[[:space:]]*#' "$keys" | grep -F -e "$key"; }
own() { [ "$me" != 0 ] || chown "$(stat -c %u:%g "$(dirname "$1")")" "$1"; }
there=$(with_key)
done=added
if [ -n "$there" ]; then
    done=present
    [ -n "$(printf '%s\n' "$there" | current)" ] || { done=expired; [ "$renews" = no ] || done=renewed; }
fi
case $done in present | expired)
    echo "$done $keys"
    printf '%s\n' "$there" | sed 's/^/is /'
    ;;
*)
    [ -e "$keys" ] || { : >> "$keys" && own "$keys"; } || exit 3
    if [ -s "$keys" ] && [ -n "$(tail -c 1 "$keys")" ]; then echo >> "$keys" || exit 3; fi
    printf '%s\n' "$line" >> "$keys" || exit 3
    echo "$done $keys"
    ;;
esac

if [ ! -e "$host" ]; then
    if command -v "$mproxy" > /dev/null 2>&1; then
        "$mproxy" keygen --host -f "$host" > /dev/null 2>&1
    fi
    if [ ! -e "$host" ] && command -v openssl > /dev/null 2>&1; then
        made=$(mktemp "$(dirname "$host")/.host-key.XXXXXX") &&
            openssl req -x509 -newkey ed25519 -nodes -days 36500 -subj /CN=mproxy \
                -keyout "$made" -out "$made.certificate" > /dev/null 2>&1 &&
            cat "$made.certificate" >> "$made" && ln "$made" "$host" 2> /dev/null
        rm -f "$made" "$made.certificate"
    fi
    [ ! -e "$host" ] || own "$host"
fi
if [ -e "$host" ]; then
    sed -n '/-----BEGIN CERTIFICATE-----/,/-----END CERTIFICATE-----/p' "$host"
fi
finish
"""
