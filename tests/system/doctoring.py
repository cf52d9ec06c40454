"""`mproxy doctor` on a host of the lab, and what it says."""

import json

from proxies import SPROXY_PORT
from relays import MPROXY


class Verdict:
    """What the doctor said, as JSON; `of` is the finding about one subject."""

    def __init__(self, text):
        self.facts = json.loads(text)

    def of(self, check):
        found = self.all(check)
        assert len(found) == 1, f"{len(found)} of {check}: {self.facts}"
        return found[0]

    def all(self, check):
        return [finding for finding in self.facts["findings"] if finding["check"] == check]

    @property
    def checks(self):
        return {finding["check"] for finding in self.facts["findings"]}

    @property
    def faults(self):
        return [finding["check"] for finding in self.facts["findings"] if finding["verdict"] == "fault"]


class Doctor:
    """Runs it on the lab's client; its text and its JSON must say the same, with advice for every fault."""

    def __init__(self, lab):
        self._lab = lab

    def __call__(self, *options, host=None, status=1, patience="1s", command=(MPROXY, "doctor"), named=True):
        """`named`: HOST and PORT are given."""
        words = [host or self._lab.server_address, SPROXY_PORT] if named else []
        program = self._lab.client.start(*command, "--json", *options, "--connect-timeout", patience, *words)
        assert program.wait(within=60) == status, str(program)
        assert program.log.text == "", str(program)
        verdict = Verdict(program.out.text)
        assert verdict.facts["possible"] is (status == 0)
        assert bool(verdict.faults) is (status == 1)
        for finding in verdict.facts["findings"]:
            if finding["verdict"] == "fault":
                assert finding["advice"] in verdict.facts["advice"]
        return verdict
