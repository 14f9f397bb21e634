#!/bin/sh
# Prints the sysctls that N loopback connections in one server and one client need: a name and the
# least value on each line, several numbers joined by commas.
# Usage: needs.sh N
set -eu
clients=$1
# Files of one process; those of all, both ends of each connection.
echo "fs.nr_open $((clients + 20000))"
echo "fs.file-max $((2 * clients + 200000))"
# 12,000 connections leave each source address; among many ports a free one is found soon.
echo "net.ipv4.ip_local_port_range 1024,65535"
# Pages: a broadcast may leave one with each socket.
pages=$((clients + 400000))
echo "net.ipv4.tcp_mem $((pages + clients)),$((pages + 2 * clients)),$((pages + 3 * clients))"
# Packets between two looks of a CPU at what came over loopback: what finds no place is lost, and
# comes again only after 200 ms, 400 ms and so on, with a broadcast all at the same time.
echo "net.core.netdev_max_backlog $((clients + 1000))"
echo "net.core.somaxconn 4096"
echo "net.ipv4.tcp_max_syn_backlog 4096"
