import pytest

from sage.libs.finetune.agent.evaluation.instructions.formats import CHECKS


@pytest.mark.parametrize(
    ("kind", "arguments", "reply", "follows"),
    [
        ("content:number_placeholders", {"num_placeholders": 2}, "[a] and [b c]", True),
        ("content:number_placeholders", {"num_placeholders": 2}, "[a] and [b", False),
        ("content:number_placeholders", {"num_placeholders": 2}, "[[a]] [b\nc]", False),
        ("content:postscript", {"postscript_marker": "P.S."}, "Bye.\n\np. s. more", True),
        ("content:postscript", {"postscript_marker": "P.S."}, "Bye.\n\nPS more", False),
        ("content:postscript", {"postscript_marker": "P.P.S"}, "P. P. S more", True),
        ("content:postscript", {"postscript_marker": "Note:"}, "note: more", True),
        ("format:number_bullet_lists", {"num_bullets": 2}, "Here:\n* one\n  - two", True),
        ("format:number_bullet_lists", {"num_bullets": 2}, "* one\n** two", False),
        ("format:number_bullet_lists", {"num_bullets": 2}, "* one\n* two\n* three", False),
        ("format:constrained_response", {}, "Well. My answer is no.", True),
        ("format:constrained_response", {}, "My answer is no", False),
        ("format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", True),
        ("format:number_highlighted_sections", {"num_highlights": 2}, "*a* and * *", False),
        (
            "format:multiple_sections",
            {"section_spliter": "Section", "num_sections": 2},
            "Section 1\na\nSection 2",
            True,
        ),
        (
            "format:multiple_sections",
            {"section_spliter": "Section", "num_sections": 2},
            "Section 1\nSection two",
            False,
        ),
        ("format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 1}, "Section 1", False),
        ("format:json_format", {}, '```json\n{"a": 1}\n```', True),
        ("format:json_format", {}, 'Sure: {"a": 1}', False),
        ("format:json_format", {}, "[" * 100_000, False),
        ("format:title", {}, "<<A title>>\ntext", True),
        ("format:title", {}, "<< >>\ntext", False),
        ("format:title", {}, "<<A\ntitle>>", False),
    ],
)
def test_formats(kind, arguments, reply, follows):
    check = CHECKS[f"detectable_{kind}"]
    assert check.follows(reply, check.read(arguments)) is follows
