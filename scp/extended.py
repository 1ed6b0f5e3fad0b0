"""SOP Class Extended Negotiation of the Query/Retrieve services (PS3.4 C.5.1.1 to C.5.3.1).

The requestor proposes each option by a byte of 1 in its place; the acceptor answers 1 for what it will do.
"""

from dataclasses import dataclass

from dcmpress.scp.contexts import FIND_CLASSES
from dcmpress.scp.find import PATIENT_ROOT_GET, PATIENT_ROOT_MOVE, STUDY_ROOT_GET, STUDY_ROOT_MOVE

_OF_FIND = bytes(
    [
        1,  # relational queries
        1,  # combined date and time matching
        1,  # fuzzy semantic matching of person names
        0,  # timezone query adjustment: data sets that name no offset could not be told apart
        0,  # enhanced multi-frame image conversion
        1,  # empty value matching
        1,  # multiple value matching
    ]
)
_OF_RETRIEVE = bytes(
    [
        1,  # relational retrieval
        0,  # enhanced multi-frame image conversion
    ]
)


def granted(sop_class_uid: str, asked: bytes) -> bytes | None:
    """Return the answer to the application information `asked`, as long as that; None for no answer."""
    if sop_class_uid in FIND_CLASSES:
        ours = _OF_FIND
    elif sop_class_uid in (PATIENT_ROOT_GET, PATIENT_ROOT_MOVE, STUDY_ROOT_GET, STUDY_ROOT_MOVE):
        ours = _OF_RETRIEVE
    else:
        return None
    return (
        bytes(int(a == b == 1) for a, b in zip(asked, ours.ljust(len(asked), b"\0"), strict=False)) or b"\0"
    )


@dataclass(frozen=True, slots=True)
class QueryOptions:
    """How the keys of a C-FIND are to be taken.

    Attributes
    ----------
    relational : unique keys of upper levels may be left out
    combined_time : a date and its time make one range
    fuzzy : names match word by word
    empty_values : two quotation marks match what has no value
    """

    relational: bool = False
    combined_time: bool = False
    fuzzy: bool = False
    empty_values: bool = False

    @classmethod
    def of(cls, answer: bytes) -> "QueryOptions":
        """Return the options that an answer grants."""
        answer = answer.ljust(len(_OF_FIND), b"\0")
        return cls(bool(answer[0]), bool(answer[1]), bool(answer[2]), bool(answer[5]))
