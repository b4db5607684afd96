"""A Ray cluster of several nodes on this machine, as a program: `add`, `kill`, `end` on stdin, an answer for each.

In a process of its own, because Ray keeps state in the process that starts nodes.
"""

from __future__ import annotations

import sys

NODE = {
    "object_store_memory": 80 * 2**20,
    "include_dashboard": False,
}


def say(text: str) -> None:
    """One line to the process that started this one."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Start a head that computes nothing, and obey."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE})
    nodes = []
    say(cluster.address)
    for line in sys.stdin:
        word = line.strip()
        if word == "add":
            nodes.append(cluster.add_node(num_cpus=1, **NODE))
        elif word == "kill":
            # SIGKILL for the raylet and all that it started: a machine that loses its power.
            cluster.remove_node(nodes.pop(0), allow_graceful=False)
        elif word == "end":
            break
        say("done")
    cluster.shutdown()
    say("done")


if __name__ == "__main__":
    main()
