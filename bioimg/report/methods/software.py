"""Describe versions, devices and dates."""

from collections.abc import Iterator

from bioimg.report.methods.paragraph import Paragraph, Sentence


class SoftwareParagraph(Paragraph):
    """What the experiment ran on."""

    def sentences(self) -> Iterator[Sentence]:
        manifest = self.analysis.manifest
        versions = [f"{name} {version}" for name, version in manifest["versions"].items()]
        yield self._say("versions", versions=self._all_of(versions))
        if manifest.get("commit"):
            yield self._say("commit", commit=manifest["commit"])
        if sum("versions" in run for run in self._sessions) > 1:
            yield self._say("versions_changed")
        devices = self._known_values("device")
        if devices:
            yield self._say("devices", devices=self._either(devices))
        precisions = self._known_values("precision_used")
        if precisions:
            yield self._say("precision", precisions=self._either(precisions))
        hardware = manifest.get("hardware") or {}
        if hardware.get("machine") and hardware.get("cpus"):
            yield self._say("hardware", machine=hardware["machine"], cpus=hardware["cpus"])
        if not manifest.get("complete"):
            yield self._say("incomplete")
        elif manifest.get("created") and manifest.get("finished"):
            start, end = manifest["created"][:10], manifest["finished"][:10]
            yield self._say("date" if start == end else "dates", start=start, end=end)
        if self._sessions:
            yield self._say("sessions", n=len(self._sessions))
