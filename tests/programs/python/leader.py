"""A candidate in the client's own election: says when it waits and when it leads."""

import sys
import threading

from kubernetes import config
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock

namespace, name = sys.argv[1:3]
config.load_kube_config()
lock = ConfigMapLock("election", namespace, name)


class Spoken(leaderelection.LeaderElection):
    """Says once that it was not the first."""

    waits = False

    def try_acquire_or_renew(self):
        leads = super().try_acquire_or_renew()
        if not leads and not self.waits:
            self.waits = True
            print(f"{name} waits", flush=True)
        return leads


def leading():
    print(f"{name} leads", flush=True)
    threading.Event().wait()


Spoken(
    electionconfig.Config(
        lock,
        lease_duration=4,
        renew_deadline=3,
        retry_period=1,
        onstarted_leading=leading,
        onstopped_leading=lambda: sys.exit(f"{name} leads no more"),
    )
).run()
