"""What the name of a licence says that weights must not be used for."""

import re

NON_COMMERCIAL_TERMS = {"nc", "noncommercial", "commercial"}
NO_DERIVATIVES_TERMS = {"nd", "noderivatives", "noderivs"}
"""Parts of the names of licences, such as cc-by-nc-nd-4.0 or lunit-non-commercial."""
NO_DERIVATIVES_CLAUSE = (
    "Creative Commons BY-ND and BY-NC-ND 4.0, section 2(a)(1)(B): adapted material may be produced "
    "and reproduced, but not shared"
)


def forbids_commerce(licence: str) -> bool:
    """Return True if weights and what is made of them must not be used commercially."""
    return not _terms(licence).isdisjoint(NON_COMMERCIAL_TERMS)


def forbids_sharing(licence: str) -> bool:
    """Return True if models that were trained from weights must not be passed on."""
    return not _terms(licence).isdisjoint(NO_DERIVATIVES_TERMS)


def _terms(licence: str) -> set[str]:
    return set(re.split("[^a-z]+", licence.lower()))
