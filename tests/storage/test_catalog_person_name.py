"""Names as they are compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcmpress.storage.catalog.person_name import fold, folded_groups, folded_values


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("DOE^JOHN", "doe^john"),
        ("Doe^John^^^", "doe^john"),
        (" Doe ^ John  Paul ^", "doe^john paul"),
        ("Müller^Jörg", "muller^jorg"),
        ("Mu\u0308ller^Jo\u0308rg", "muller^jorg"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("Łukasz Ørsted", "lukasz orsted"),
        ("Διονυσιος", "διονυσιοσ"),
        ("ΔΙΟΝΥΣΙΟΣ", "διονυσιοσ"),
        ("Люкceмбypг", "люкceмбypг"),
        ("Ｙａｍａｄａ", "yamada"),
        ("ﾔﾏﾀﾞ^ﾀﾛｳ", "ヤマダ^タロウ"),
        ("がか", "がか"),
        ("D*E^J?", "d*e^j?"),
        ("", ""),
        ("^^^", ""),
    ],
)
def test_fold(name: str, folded: str) -> None:
    assert fold(name) == folded


@given(st.text(max_size=40))
def test_folding_twice_changes_nothing_more(name: str) -> None:
    assert fold(fold(name)) == fold(name)


def test_groups_and_values() -> None:
    assert folded_groups("Yamada^Tarou=山田^太郎=やまだ^たろう") == (
        "yamada^tarou",
        "山田^太郎",
        "やまだ^たろう",
    )
    assert folded_groups("=山田") == ("", "山田", "")
    assert folded_values("A^B=甲\\C^^") == "a^b\\甲\\c"
