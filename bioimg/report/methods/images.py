"""Describe the images, and what was done to them before training."""

from collections.abc import Iterator

from bioimg.report.formatting import format_count
from bioimg.report.methods.paragraph import Paragraph, Sentence


class ImagesParagraph(Paragraph):
    """What is known of the images."""

    def sentences(self) -> Iterator[Sentence]:
        data = self.analysis.manifest["data"]
        yield self._say(
            "images",
            data=data["name"],
            images=format_count(data["images"]),
            classes=len(data["classes"]),
            names=self._all_of(data["classes"]),
        )
        if data["synthetic"]:
            yield self._say("synthetic")
        yield from self._describe_groups()
        if self._class_table:
            yield self._say("class_table")
        yield from self._describe_exclusions()
        yield self._say("fingerprint", fingerprint=data["fingerprint"])
        yield self._say(
            "resizing", how=self._either_choice("resize"), sizes=self._either(self._image_sizes())
        )
        for channels in self._known_values("channels"):
            yield self._say("channels", channels=channels)
        yield self._say("scaling", how=self._either_choice("scaling"))
        yield self._say("normalisation")

    def _describe_groups(self) -> Iterator[Sentence]:
        groups = self.analysis.manifest["data"].get("groups")
        patterns = self._known_values("group_pattern")
        if patterns == ["copies"]:
            yield self._say("group_copies")
        if groups is None or patterns == ["copies"]:
            yield self._say("groups_unknown")
            return
        yield self._say("groups", groups=format_count(groups))
        if patterns == ["parent"]:
            yield self._say("group_parent")
        elif patterns:
            yield self._say("group_pattern", pattern=self._either(patterns))

    def _describe_exclusions(self) -> Iterator[Sentence]:
        unreadable = self._trials["unreadable_skipped"].max()
        if unreadable > 0:
            yield self._say("unreadable", n=format_count(unreadable))
        elif unreadable == 0:
            yield self._say("unreadable_none")
        ignored = self._trials["ignored_files"].max()
        if ignored > 0:
            yield self._say("ignored", n=format_count(ignored))
        look_alikes = self._trials["look_alike_images_across_splits"].max()
        if look_alikes > 0:
            yield self._say("look_alikes", n=format_count(look_alikes))
        copies = self._trials["duplicate_images_across_splits"].max()
        if copies > 0:
            yield self._say("copies", n=format_count(copies))
        elif copies == 0:
            yield self._say("copies_none")

    def _image_sizes(self) -> list[str]:
        return [f"{size} × {size}" for size in self._known_values("image_size")]
