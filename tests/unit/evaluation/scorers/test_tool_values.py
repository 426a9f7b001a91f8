import pytest

from sage.libs.finetune.agent.evaluation.scorers.tool_values import parameter_of, value_fault

INTS = {"type": "array", "items": {"type": "integer"}}
OBJECTS = {"type": "array", "items": {"type": "object"}}


@pytest.mark.parametrize(
    ("value", "allowed", "schema", "fault"),
    [
        # kinds
        (1, [1], {"type": "integer"}, None),
        (True, [1], {"type": "integer"}, "type"),
        (1, [True], {"type": "boolean"}, "type"),
        (1.0, [1], {"type": "integer"}, "type"),
        ("1", [1], {"type": "integer"}, "type"),
        (5, [5.0], {"type": "float"}, None),
        (5, [5], {"type": "number"}, None),
        (10**400, [5.0], {"type": "number"}, "value"),
        (None, [None], {"type": "string"}, None),  # the allowed value's own kind
        (None, ["x"], {"type": "string"}, "type"),
        ("x", ["x"], {"type": "any"}, None),
        (3, [3], {"type": "any"}, None),
        ("var", ["var"], {"type": "integer"}, None),
        ("Var", ["var"], {"type": "integer"}, "value"),  # a variable is compared as it is
        # text
        ("april 1 2024", ["April 1, 2024"], {"type": "string"}, None),
        ("it's", ['it"s'], {"type": "string"}, None),
        ("a+b", ["ab"], {"type": "string"}, "value"),
        ("", ["x", ""], {"type": "string"}, None),
        # lists
        ([1, 2], [[1, 2]], INTS, None),
        ([2, 1], [[1, 2]], INTS, "value"),
        ([1, "2"], [[1, 2]], INTS, "type"),
        ([1.0], [[1]], INTS, "type"),
        (["NEW york"], [["New York"], ["Bonn"]], {"type": "array", "items": {"type": "string"}}, None),
        ([1], [[1.0]], {"type": "array", "items": {"type": "float"}}, "type"),  # promoted at the top only
        ([1], [[1.0]], {"type": "array", "items": {"type": "number"}}, None),
        ((1, 2), [[1, 2]], {"type": "tuple", "items": {"type": "integer"}}, None),
        ((1, 2), [[1, 2]], INTS, "type"),
        ([[1, "a"]], [[[1, "a"]]], {"type": "array", "items": {"type": "array"}}, None),
        ([], [[1], ""], INTS, None),
        # objects
        ({"city": "bonn"}, [{"city": ["Bonn"], "zip": ["", 5]}], {"type": "dict"}, None),
        ({"city": "Bonn", "zip": 6}, [{"city": ["Bonn"], "zip": ["", 5]}], {"type": "dict"}, "value"),
        ({"zip": 5}, [{"city": ["Bonn"], "zip": ["", 5]}], {"type": "object"}, "value"),
        ({"city": "Bonn", "x": 1}, [{"city": ["Bonn"]}], {"type": "object"}, "value"),
        ([{"a": 1}, {"a": 2}], [[{"a": [1]}, {"a": [2, 3]}]], OBJECTS, None),
        ([{"a": 2}, {"a": 1}], [[{"a": [1]}, {"a": [2]}]], OBJECTS, "value"),
        ([{"a": 1}], [[{"a": [1]}, {"a": [2]}]], OBJECTS, "value"),
        # JSON schema says more than BFCL knows
        (None, [None], {"type": ["string", "null"]}, None),
        ("Bonn", ["bonn"], {"type": ["string", "null"]}, None),
        (5, ["5"], {"type": ["string", "null"]}, "type"),
        (5, [5.0], {"anyOf": [{"type": "number"}, {"type": "null"}]}, None),
        ("A", ["a"], {"enum": ["a", "b"]}, None),
        ("x", ["X"], {"type": "string", "nullable": True}, None),
        ({"a": "B"}, [{"a": ["b"]}], {"$ref": "#/$defs/thing"}, None),
        ((1,), [[1]], {}, None),
        (1, [1], True, None),
        (1, [1], {"type": ["integer", "odd"]}, None),
        (1, [1], {"anyOf": [True, {"type": "string"}]}, None),
    ],
)
def test_value_fault(value, allowed, schema, fault):
    assert value_fault(value, allowed, parameter_of(schema)) == fault


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ({"city": "Bonn", "tags": ["a", "b"], "at": {"x": 1}}, {"type": "object"}),
        ({"city": "Bonn"}, {}),
        ([{"a": [1, 2]}, {"a": []}], OBJECTS),
        ([{"a": [1, 2]}], {"type": "array"}),
        ([1, 2], INTS),
        (None, {"type": "string"}),
    ],
)
def test_what_allows_one_value_alone_allows_that_value(value, schema):
    parameter = parameter_of(schema)
    assert value_fault(value, parameter.allowing(value), parameter) is None


def test_a_list_among_the_values_of_a_key_is_not_taken_for_choices():
    parameter = parameter_of({"type": "object"})
    assert value_fault({"tags": "a"}, parameter.allowing({"tags": ["a", "b"]}), parameter) == "value"
