#!/usr/bin/env bash
# A test bed on one machine: hosts as network namespaces, joined by links of a given rate, with one MPI
# rank in each. Takes everything down again when the command ends.
#   tools/testbed.sh mesh 4 100mbit -- build/release/weft bench tasp --threads 1
#   tools/testbed.sh switch 4 1gbit --fault 5:slow:0-1:10mbit -- build/release/weft generate ...
#
#   mesh      a link of its own for every pair of hosts
#   switch    one port for each host, on a bridge
#   nodes     machines of several devices: a link for every pair in a machine, and for each device a
#             network port of its own on a bridge between the machines. HOSTS as 2x4: machines x devices
#   HOSTS     2 to 16
#   RATE      of a link or port, each way, as tc writes it (100mbit); "unlimited" for none
# --port R    of a network port, in `nodes` (RATE is of the links inside)
# --delay D   of a packet (1ms). Refused where the kernel has no netem.
# --fault S:slow:A-B:RATE   after S seconds the link of two hosts (mesh), or A's port, has another rate
# --fault S:drop:A-B        ... loses everything
# --show      print the launcher's settings
#
# Needs root and the packages iproute2 and openmpi-bin. Ranks talk through the links alone: each has its
# own host name and address, and MPI's shared memory is off.
set -euo pipefail

die() { echo "testbed: $*" >&2; exit 2; }
usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2; exit 2; }

[ $# -ge 3 ] || usage
shape=$1 hosts=$2 rate=$3
shift 3
delay="" show="" port="" faults=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --delay) delay=$2; shift 2 ;;
    --port) port=$2; shift 2 ;;
    --fault) faults+=("$2"); shift 2 ;;
    --show) show=yes; shift ;;
    *) die "unknown option '$1'" ;;
  esac
done
[ $# -gt 1 ] || usage
shift
case $shape in mesh | switch | nodes) ;; *) die "'$shape' is no shape: mesh, switch or nodes" ;; esac
devices=0  # of a machine; 0: hosts are machines
if [ "$shape" = nodes ]; then
  [[ $hosts =~ ^([0-9]+)x([0-9]+)$ ]] || die "'$hosts': nodes are machines x devices, as 2x4"
  devices=${BASH_REMATCH[2]} hosts=$((BASH_REMATCH[1] * BASH_REMATCH[2]))
  [ -n "$port" ] || die "nodes need --port RATE, of a device's network port"
  [ ${#faults[@]} -eq 0 ] || die "--fault is for mesh and switch"
fi
[[ $hosts =~ ^[0-9]+$ ]] && [ "$hosts" -ge 2 ] && [ "$hosts" -le 16 ] || die "'$hosts' hosts: 2 to 16"
[ "$(id -u)" -eq 0 ] || die "network namespaces need root"
for program in ip tc mpirun; do
  command -v $program >/dev/null || die "$program is missing: apt-get install iproute2 openmpi-bin"
done

bed=wb$$
work=$(mktemp -d)
background=()
clean() {
  for pid in "${background[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  for ((i = 0; i < hosts; i++)); do
    ip netns pids "$bed-$i" 2>/dev/null | xargs -r kill -9 2>/dev/null || true  # what mpirun left there
    ip netns del "$bed-$i" 2>/dev/null || true
  done
  ip netns del "$bed-s" 2>/dev/null || true
  rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM
ip netns add "$bed-s" 2>"$work/error" || die "no network namespaces here: $(cat "$work/error")"

# bucket RATE: bytes that may go ahead of it, some millisecond's worth.
bucket() {
  case $1 in
    *gbit) echo $((128 << 10)) ;;
    [5-9]??mbit) echo $((64 << 10)) ;;
    [2-4]??mbit) echo $((32 << 10)) ;;
    *) echo $((16 << 10)) ;;
  esac
}
# Of a link: a thousand packets, as a network card's. A shorter queue loses what one message puts into it.
queue=1500kb

# shape_link NAMESPACE DEVICE RATE: what leaves by it.
shape_link() {
  [ "$3" != unlimited ] || return 0
  local bytes
  bytes=$(bucket "$3")
  # What TCP hands over in one piece fits into the bucket, with its headers. Cutting it into packets is a network
  # card's work; here the cores that compute would do it, and at 100 Mbit/s four hosts would do nothing else.
  ip -n "$1" link set "$2" gso_max_size $((bytes * 11 / 12 < 65536 ? bytes * 11 / 12 : 65536))
  ip netns exec "$1" tc qdisc replace dev "$2" root handle 1: tbf rate "$3" burst "$bytes" limit $queue
  [ -z "$delay" ] || ip netns exec "$1" tc qdisc add dev "$2" parent 1:1 netem delay "$delay" ||
    die "this kernel cannot delay packets (no netem): leave --delay out"
}

for ((i = 0; i < hosts; i++)); do
  ip netns add "$bed-$i"
  ip -n "$bed-$i" link set lo up
  # TCP that goes by losses, as Linux does by default. Machines of a data centre may have BBR, which measures
  # links instead: where many flows share two cores it takes waiting for a core for a slow link, and leaves
  # up to a third of the rate unused. (Reno, since a namespace may not choose CUBIC; nothing is lost here.)
  ip netns exec "$bed-$i" sysctl -qw net.ipv4.tcp_congestion_control=reno
done
# own_address HOST: on a device of its own; the routes to others go by the links to them. MPI then never
# wonders which of many networks to take.
own_address() {
  ip -n "$bed-$1" link add d0 type veth peer name d1
  ip -n "$bed-$1" addr add "10.77.$1.1/32" dev d0
  ip -n "$bed-$1" link set d0 up
  ip -n "$bed-$1" link set d1 up
}

# join HOST HOST RATE: a link of their own.
join() {
  local i=$1 j=$2
  ip link add "e$j" netns "$bed-$i" type veth peer name "e$i" netns "$bed-$j"
  ip -n "$bed-$i" link set "e$j" up
  ip -n "$bed-$j" link set "e$i" up
  ip -n "$bed-$i" addr add "10.78.$i.$((100 + j))/32" peer "10.78.$j.$((100 + i))" dev "e$j"
  ip -n "$bed-$j" addr add "10.78.$j.$((100 + i))/32" peer "10.78.$i.$((100 + j))" dev "e$i"
  ip -n "$bed-$i" route add "10.77.$j.1/32" dev "e$j" src "10.77.$i.1"
  ip -n "$bed-$j" route add "10.77.$i.1/32" dev "e$i" src "10.77.$j.1"
  shape_link "$bed-$i" "e$j" "$3"
  shape_link "$bed-$j" "e$i" "$3"
}

# plug HOST DEVICE RATE: into the bridge.
plug() {
  ip link add "$2" netns "$bed-$1" type veth peer name "p$1" netns "$bed-s"
  ip -n "$bed-s" link set "p$1" master bridge
  ip -n "$bed-s" link set "p$1" up
  ip -n "$bed-$1" link set "$2" up
  shape_link "$bed-$1" "$2" "$3"
  shape_link "$bed-s" "p$1" "$3"
}

if [ "$shape" != mesh ]; then
  ip -n "$bed-s" link add name bridge type bridge
  ip -n "$bed-s" link set bridge up
fi
for ((i = 0; i < hosts; i++)); do
  case $shape in
    switch)
      plug "$i" d0 "$rate"
      ip -n "$bed-$i" addr add "10.77.$i.1/16" dev d0
      ;;
    nodes)
      own_address "$i"
      plug "$i" port "$port"
      ;;
    mesh) own_address "$i" ;;
  esac
done
for ((i = 0; i < hosts; i++)); do
  for ((j = i + 1; j < hosts; j++)); do
    if [ "$shape" = mesh ] || { [ "$shape" = nodes ] && [ $((i / devices)) -eq $((j / devices)) ]; }; then
      join "$i" "$j" "$rate"
    elif [ "$shape" = nodes ]; then
      ip -n "$bed-$i" route add "10.77.$j.1/32" dev port src "10.77.$i.1"
      ip -n "$bed-$j" route add "10.77.$i.1/32" dev port src "10.77.$j.1"
    fi
  done
done

# mpirun calls this instead of ssh: agent ADDRESS COMMAND...
cat >"$work/agent" <<AGENT
#!/usr/bin/env bash
i=\${1#10.77.}; i=\${i%%.*}; shift
mkdir -p "$work/\$i"
exec ip netns exec $bed-\$i unshare --uts sh -c "hostname host-\$i; TMPDIR=$work/\$i exec sh -c '\$*'"
AGENT
chmod +x "$work/agent"
for ((i = 0; i < hosts; i++)); do echo "10.77.$i.1 slots=1"; done >"$work/hosts"

# The settings of docs/clusters.md: full-duplex links, short socket buffers, one address for each rank.
settings=(--mca plm_rsh_agent "$work/agent" --mca plm_rsh_no_tree_spawn 1
          --mca orte_leave_session_attached 1 --mca pml ob1 --mca btl tcp,self
          --mca btl_tcp_flags 1 --mca btl_tcp_sndbuf 65536 --mca btl_tcp_if_include d0
          --mca oob_tcp_if_include d0)
# A launcher that hears no more of a host gives it up after 5 s (by default, after 8 minutes).
settings+=(--mca oob_tcp_keepalive_time 2 --mca oob_tcp_keepalive_intvl 1 --mca oob_tcp_keepalive_probes 3)
[ -z "$show" ] || echo "testbed: $shape of $hosts, $rate; mpirun ${settings[*]}" >&2

for fault in "${faults[@]}"; do
  IFS=: read -r after what pair other <<<"$fault"
  a=${pair%-*} b=${pair#*-}
  if [ "$shape" = mesh ]; then
    ends=("$bed-$a e$b" "$bed-$b e$a")
  else
    ends=("$bed-$a d0" "$bed-s p$a")
  fi
  (
    sleep "$after"
    for end in "${ends[@]}"; do
      read -r where device <<<"$end"
      case $what in
        slow) shape_link "$where" "$device" "$other" ;;
        drop) ip -n "$where" link set "$device" down ;;
      esac
    done
    echo "testbed: $what $pair $other" >&2
  ) &
  background+=($!)
done

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mkdir -p "$work/0"
ip netns exec "$bed-0" unshare --uts sh -c "hostname host-0; TMPDIR=$work/0 exec \"\$@\"" sh \
  mpirun --hostfile "$work/hosts" -n "$hosts" --map-by node --bind-to none "${settings[@]}" "$@" <&0 &
background+=($!)
wait $!
