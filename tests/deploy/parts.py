"""What `make test-deploy` shows, in parts. Each part begins with bare machines and ends with everything switched off."""
import os
import sys
import tempfile
import time
import traceback

from lab import wait_for
from site_under_test import Site

THREE = ["db1", "db2", "db3"]
EVERYTHING = {"etcd_cluster": THREE, "postgres_cluster": THREE, "balancers": THREE}
REPORT = []


def note(sentence):
    REPORT.append(sentence)
    print(f"   {sentence}", flush=True)


def account(writer, fault, moment, loss_allowed=False):
    wait_for(f"the writer to go on after {fault}", writer.goes_on, 90)
    note(f"{fault}: the writer waited {writer.gap_since(moment):.1f} s at most")


def close(writer, losses_allowed=False):
    writer.end()
    missing = writer.missing()
    note(f"{len(writer.acknowledged)} rows acknowledged, {len(missing)} of them missing, {writer.errors} errors")
    assert losses_allowed or not missing, f"acknowledged rows are missing: {missing[:20]}"


def base(ground):
    """From nothing: preflight, twice the site, check mode; a writer through HAProxy while machines lose their power."""
    with Site(ground, THREE, EVERYTHING, {"tenure_synchronous_mode": "on"}) as site:
        site.play("site")
        leader = site.healthy()
        site.unchanged("site")
        writer = site.writer()
        wait_for("the writer to write", writer.goes_on)

        moment = time.monotonic()
        site.lab.machines[leader].power_off()
        account(writer, "power-off of the primary's machine, an etcd member and a balancer with it", moment)
        site.lab.machines[leader].power_on()
        site.lab.until_reached(leader)
        site.healthy()
        site.unchanged("site")
        close(writer)


PARTS = {part.__name__: part for part in [base]}


def main():
    wanted = sys.argv[1:] or list(PARTS)
    for name in wanted:
        if name not in PARTS:
            sys.exit(f"there is no part {name}: {', '.join(PARTS)}")
    name = wanted[0]
    begun = time.monotonic()
    print(f"== {name}: {PARTS[name].__doc__}", flush=True)
    with tempfile.TemporaryDirectory(prefix="ground-") as ground:
        try:
            PARTS[name](ground)
        except Exception:
            traceback.print_exc(file=sys.stdout)
            sys.exit(f"== {name} failed after {time.monotonic() - begun:.0f} s")
        finally:
            # Overlays are unmounted by the end of the namespace; until then nothing below them may be removed.
            os.system(f"umount --lazy {ground}/*/root 2>/dev/null")
    print(f"== {name}: good, {time.monotonic() - begun:.0f} s", flush=True)
    for sentence in REPORT:
        print(f"REPORT {name}: {sentence}", flush=True)


if __name__ == "__main__":
    main()
