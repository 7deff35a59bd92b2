"""Parsing, typing, hashing and rendering of feature expressions."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from featurestore.definitions.expression import (
    Call,
    Case,
    Cast,
    Column,
    Expression,
    Literal,
    canonical,
    column_lineage,
    columns_of,
    infer,
    parse_expression,
    read_expression,
    show,
    uses_request_time,
    with_request_time,
)
from featurestore.definitions.functions import (
    ALIASES,
    CALLABLE,
    FUNCTIONS,
    MANY,
    OPERATORS,
)
from featurestore.dtypes import (
    BOOL,
    BYTES,
    DATE,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    Kind,
    parse,
)
from featurestore.errors import InvalidExpression, TypeMismatch

MONEY = parse("decimal(12,2)")
SCHEMA = {
    "i": INT64,
    "j": INT32,
    "x": FLOAT64,
    "r": FLOAT32,
    "m": MONEY,
    "s": STRING,
    "b": BOOL,
    "t": TIMESTAMP,
    "d": DATE,
    "raw": BYTES,
    "tags": parse("list<string>"),
    "spent": parse("map<string,int64>"),
    "order": INT64,
    "größe": FLOAT64,
    "wind speed": FLOAT64,
}


# --- parsing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("x", Column("x")),
        ('"order"', Column("order")),
        ("größe", Column("größe")),
        ('"wind speed"', Column("wind speed")),
        ("hour", Column("hour")),
        ("date", Column("date")),
        ("3", Literal(3, INT64)),
        ("-3", Literal(-3, INT64)),
        ("-9223372036854775808", Literal(-(2**63), INT64)),
        ("0.868976", Literal(0.868976, FLOAT64)),
        ("-0.0", Literal(0.0, FLOAT64)),
        ("1e3", Literal(1000.0, FLOAT64)),
        ("'it''s'", Literal("it's", STRING)),
        ("TRUE", Literal(True, BOOL)),
        ("NULL", Literal(None, None)),
        ("DATE '2024-02-29'", Literal("2024-02-29", DATE)),
        ("TIMESTAMP '2024-02-29'", Literal("2024-02-29T00:00:00Z", TIMESTAMP)),
        ("TIMESTAMP '2024-02-29 10:00:00+02:00'", Literal("2024-02-29T08:00:00Z", TIMESTAMP)),
        ("CAST(x AS float32)", Cast(Column("x"), FLOAT32)),
        ("x::decimal(12,2)", Cast(Column("x"), MONEY)),
        ("TRY_CAST(x AS varchar)", Cast(Column("x"), STRING)),
        ("IF(b, 1)", Case(((Column("b"), Literal(1, INT64)),), Literal(None, None))),
        ("s NOT LIKE 'a'", Call("not", (Call("like", (Column("s"), Literal("a", STRING))),))),
        ("pow(x, 2)", Call("power", (Column("x"), Literal(2, INT64)))),
        ("i ** 2", Call("power", (Column("i"), Literal(2, INT64)))),
        ("s IS DISTINCT FROM 'a'", Call("is_distinct", (Column("s"), Literal("a", STRING)))),
        ("pi()", Literal(3.141592653589793, FLOAT64)),
        ("date_part('DOW', t)", Call("dayofweek", (Column("t"),))),
        ("isnull(s)", Call("is_null", (Column("s"),))),
        ("mod(i, 2)", Call("mod", (Column("i"), Literal(2, INT64)))),
        ("DATE_TRUNC('DAY', t)", Call("date_trunc", (Literal("day", STRING), Column("t")))),
    ],
)
def test_parse(text: str, tree: Expression) -> None:
    assert parse_expression(text) == tree


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("t + INTERVAL 3 DAY", "date_add('day', 3, t)"),
        ("t - INTERVAL '2 hours'", "date_add('hour', -2, t)"),
        ("t - INTERVAL (i) MONTH", "date_add('month', -i, t)"),
        ("b IS TRUE", "NOT (b IS DISTINCT FROM TRUE)"),
        ("b IS NOT FALSE", "NOT (NOT (b IS DISTINCT FROM FALSE))"),
        ("i IS NOT DISTINCT FROM j", "NOT (i IS DISTINCT FROM j)"),
        ("s ILIKE 'Ab%'", "lower(s) LIKE lower('Ab%')"),
        ("s NOT ILIKE 'Ab%'", "NOT (lower(s) LIKE lower('Ab%'))"),
        ("s NOTNULL", "s IS NOT NULL"),
    ],
)
def test_other_ways_to_write_it(text: str, same: str) -> None:
    assert canonical(parse_expression(text)) == canonical(parse_expression(same))


def test_precedence_is_that_of_sql() -> None:
    assert show(parse_expression("1 + i * 2 - x / 4 > 3 AND NOT b OR s = 'a'")) == (
        "(((((1 + (i * 2)) - (x / 4)) > 3) AND (NOT b)) OR (s = 'a'))"
    )
    assert show(parse_expression("s || 'a' = 'ba'")) == "((s || 'a') = 'ba')"
    assert show(parse_expression("i BETWEEN 1 AND 2 AND b")) == "((i BETWEEN 1 AND 2) AND b)"


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_function_can_be_written_and_is_shown(name: str) -> None:
    row = FUNCTIONS[name]
    arguments = ", ".join(["'day'", "a", "b"][: row.minimum]) if "date_" in name else None
    texts = {
        "is_null": "(a IS NULL)",
        "between": "(a BETWEEN b AND c)",
        "in": "(a IN (1, NULL))",
        "neg": "(- a)",
        "not": "(NOT a)",
    }
    if name in texts:
        text = texts[name]
    elif row.symbol:
        text = f"(a {row.symbol} b)"
    else:
        text = f"{name}({arguments or ', '.join('abc'[: row.minimum])})"
    assert show(parse_expression(text)) == text
    assert row.doc.endswith(".")
    assert not row.nulls.endswith(".")


def test_the_table_holds_what_was_promised() -> None:
    assert len(FUNCTIONS) >= 45
    assert set(ALIASES.values()) <= set(FUNCTIONS)
    assert not set(ALIASES) & set(FUNCTIONS)
    assert {"if", "mod", "substr", "abs"} <= set(CALLABLE)
    assert "||" in OPERATORS
    assert FUNCTIONS["concat"].maximum == MANY


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("", 0, "is empty"),
        ("  ", 0, "is empty"),
        ("x +", 2, "can't be read at character 2"),
        ("(x", 1, "can't be read"),
        ("x y", 2, "second expression"),
        ("x; x", 0, "not one SQL expression"),
        ("x + 'abc", None, "not an SQL expression"),
        ("1 + rond(x)", 4, "Did you mean 'round'?"),
        ("1 + sum(x)", 4, "sees one row"),
        ("count(*)", 0, "sees one row"),
        ("nothing_like_it(x)", 0, "Allowed are columns, literals, +"),
        ("random()", 0, "not a function of expressions"),
        ("now()", 0, "not a function"),
        ("i + t.x", 4, "'t.x' is qualified"),
        ("*", 0, "not allowed"),
        ("x -> x", 0, "not allowed"),
        ("(SELECT 1)", 8, "a query is not allowed"),
        ("i IN (SELECT 1)", 0, "list of literals"),
        ("i IN (j)", 0, "list of literals"),
        ("sum(x) OVER ()", 0, "not allowed"),
        ("s ~ 'a'", 0, "not allowed"),
        ("tags[1]", 0, "not allowed"),
        ("now()", 0, "the time of the request is request_time()"),
        ("date_part('fortnight', t)", 0, "the part must be one of"),
        ("t + INTERVAL 'a while'", 0, "the interval is not readable"),
        ("[1, 2]", 1, "not allowed"),
        ("INTERVAL 1 DAY", None, "not allowed but beside + and -. Write t + INTERVAL 3 DAY"),
        ("date_add(t, INTERVAL 1 MONTH)", None, "or date_add('day', 3, t)"),
        ("DROP TABLE x", 11, "not allowed"),
        ("9223372036854775808", 0, "does not fit int64"),
        ("1 + 1e999", 4, "does not fit float64"),
        ("DATE '2023-02-29'", 5, "is not an instant"),
        ("DATE '2023-02-28 10:00'", 5, "is not a date"),
        ("TIMESTAMP 'soon'", 10, "is not an instant"),
        ("x::float65", 0, "Did you mean 'float64'?"),
        ("x::decimal(99,2)", 0, "precision must be"),
        ("x::int64[]", 0, "not a type to cast to"),
        ("round(x, i)", 0, "as a literal"),
        ("round(x, 16)", 0, "as a literal"),
        ("date_trunc('dya', t)", 0, "unit must be one of 'year'"),
        ("date_diff(s, t, t)", 0, "unit must be one of"),
        ("abs()", 0, "takes 1 arguments, not 0"),
        ("substr(s, 1, 2, 3)", 0, "takes 2 to 3 arguments, not 4"),
        ("if(b)", 0, "takes 2 to 3"),
        ("+".join(["x"] * 102), None, "EXPRESSION_DEPTH_MAX"),
        ("(" * 3000 + "x" + ")" * 3000, None, "EXPRESSION_DEPTH_MAX"),
        ("x + " * 4000 + "x", None, "EXPRESSION_CHARACTERS_MAX"),
    ],
)
def test_what_is_not_our_language(text: str, position: int | None, says: str) -> None:
    with pytest.raises(InvalidExpression) as caught:
        parse_expression(text)
    assert says in caught.value.message
    assert caught.value.position == position


def test_sqlglot_is_loaded_by_the_first_text_only() -> None:
    code = (
        "import sys; from featurestore.definitions import expression;"
        "assert 'sqlglot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- hashing and lineage --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "texts",
    [
        ("x*2", " ( x ) *  2 ", "x /* twice */ * 2", '"x" * 2', "x * 2 -- twice"),
        ("i <> 1", "i != 1"),
        ("CAST(x AS int64)", "x::int64", "cast(x as bigint)", "TRY_CAST(x AS BIGINT)"),
        ("coalesce(x, 0)", "COALESCE(x,0)", "IFNULL(x, 0)"),
        ("CASE WHEN b THEN 1 END", "case when b then 1 else null end", "if(b, 1)"),
        ("CASE i WHEN 1 THEN 'a' ELSE 'b' END", "CASE WHEN i = 1 THEN 'a' ELSE 'b' END"),
        ("DATE '2024-01-01'", "CAST('2024-01-01' AS DATE)", "'2024-01-01'::date"),
        ("TIMESTAMP '2024-01-01'", "TIMESTAMP '2024-01-01T00:00:00Z'"),
        ("1000.0", "1e3", "1000."),
    ],
)
def test_canonical_is_the_same_for_reformatted_text(texts: tuple[str, ...]) -> None:
    forms = {json.dumps(canonical(parse_expression(text))) for text in texts}
    assert len(forms) == 1


def test_canonical_differs_where_the_meaning_does() -> None:
    texts = ["x", "s", "1", "1.0", "'1'", "TRUE", "NULL", "x + 1", "1 + x", "x - 1", "x::int64"]
    texts += ["x::int32", "date_trunc('day', t)", "date_trunc('hour', t)", "if(b, 1, 2)", "'x'"]
    assert len({json.dumps(canonical(parse_expression(text))) for text in texts}) == len(texts)


def test_canonical_is_stable() -> None:
    """It enters the hashes of stored features: a change here changes every version."""
    text = "CASE WHEN b THEN round(x / 2.5, 1) ELSE s::float64 END"
    assert canonical(parse_expression(text)) == [
        "case",
        [
            [
                ["column", "b"],
                [
                    "call",
                    "round",
                    ["call", "div", ["column", "x"], ["literal", "float64", 2.5]],
                    ["literal", "int64", 1],
                ],
            ]
        ],
        ["cast", "float64", ["column", "s"]],
    ]


def test_columns_in_the_order_of_first_use() -> None:
    text = "CASE WHEN b AND x > 1 THEN i + x ELSE coalesce(s::int64, j, i) END"
    assert columns_of(parse_expression(text)) == ("b", "x", "i", "s", "j")
    assert columns_of(Literal(1, INT64)) == ()


# --- types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("i + j", "int64"),
        ("j + j", "int64"),
        ("j * 2", "int64"),
        ("-j", "int64"),
        ("abs(j)", "int64"),
        ("i + x", "float64"),
        ("r + r", "float64"),
        ("m + m", "float64"),
        ("i / j", "float64"),
        ("i // j", "int64"),
        ("i % 2", "int64"),
        ("i % 2.5", "float64"),
        ("NULL + 1", "int64"),
        ("NULL / NULL", "float64"),
        ("i > x", "bool"),
        ("s = 'a'", "bool"),
        ("d < t", "bool"),
        ("tags IS NULL", "bool"),
        ("raw = raw", "bool"),
        ("i IN (1, 2.5, NULL)", "bool"),
        ("x BETWEEN 1 AND i", "bool"),
        ("b AND NULL", "bool"),
        ("coalesce(j, i)", "int64"),
        ("coalesce(r, x)", "float64"),
        ("coalesce(i, x)", "float64"),
        ("coalesce(NULL, m)", "decimal(12,2)"),
        ("coalesce(tags, NULL)", "list<string>"),
        ("coalesce(d, t)", "timestamp"),
        ("greatest(j, 1)", "int64"),
        ("nullif(i, 0.5)", "float64"),
        ("nullif(s, '')", "string"),
        ("round(i)", "int64"),
        ("round(x)", "float64"),
        ("round(i, 1)", "float64"),
        ("floor(m)", "float64"),
        ("sign(x)", "int64"),
        ("ln(i)", "float64"),
        ("upper(s) || 'x'", "string"),
        ("length(s)", "int64"),
        ("left(s, j)", "string"),
        ("year(d)", "int64"),
        ("epoch(t)", "float64"),
        ("date_trunc('week', d)", "timestamp"),
        ("date_diff('day', d, t)", "int64"),
        ("CASE WHEN b THEN 1 ELSE 2.5 END", "float64"),
        ("CASE WHEN b THEN j END", "int32"),
        ("CASE WHEN NULL THEN s ELSE NULL END", "string"),
        ("CAST(NULL AS float32)", "float32"),
        ("t::date", "date"),
        ("m::string", "string"),
        ("x::bool", "bool"),
        ("tags", "list<string>"),
        ("m", "decimal(12,2)"),
    ],
)
def test_infer(text: str, dtype: str) -> None:
    assert infer(parse_expression(text), SCHEMA) == parse(dtype)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s + 1", "(s + 1): argument 1 must be a number, not string"),
        ("1 + b", "argument 2 must be a number, not bool"),
        ("t - t", "date_diff(unit, a, b)"),
        ("x // 2", "write floor(a / b)"),
        ("i = s", "int64 and string have no common type; CAST one of them"),
        ("t > '2024-01-01'", "write an instant as TIMESTAMP '"),
        ("d = '2024-01-01'", "write a date as DATE '"),
        ("tags = tags", "must be no list, not list<string>"),
        ("spent = spent", "argument 1 must be no map, not map<string,int64>"),
        ("coalesce(spent, spent)", "argument 1 must be no map, not map<string,int64>"),
        ("length(spent)", "must be a string or a list, not map<string,int64>"),
        ("i AND b", "argument 1 must be bool, not int64"),
        ("NOT i", "must be bool"),
        ("i LIKE 'a'", "must be string"),
        ("length(i)", "must be a string or a list, not int64"),
        ("left(s, x)", "argument 2 must be int64, not float64"),
        ("year(s)", "must be a date or timestamp, not string"),
        ("date_diff('day', t, s)", "argument 3 must be a date or timestamp"),
        ("CASE WHEN i THEN 1 END", "i must be bool, not int64"),
        ("CASE WHEN b THEN 1 ELSE 'a' END", "int64 and string have no common type"),
        ("t::int64", "timestamp can't be cast to int64; epoch(a) gives seconds"),
        ("raw::string", "bytes can't be cast to string"),
        ("NULL", "has no type; write CAST(NULL AS float64)"),
        ("coalesce(NULL, NULL)", "has no type"),
        ("i IN (1, 'a')", "have no common type"),
        ("sqrt(s)", "must be a number"),
        ("round(s, 1)", "argument 1 must be a number"),
    ],
)
def test_type_mismatch(text: str, says: str) -> None:
    with pytest.raises(TypeMismatch) as caught:
        infer(parse_expression(text), SCHEMA)
    assert says in caught.value.message


def test_unknown_column() -> None:
    with pytest.raises(
        InvalidExpression, match=r"There is no column 'gröss'. Did you mean 'größe'"
    ):
        infer(parse_expression("gröss * 2"), SCHEMA)


def test_show_writes_what_can_be_read_again() -> None:
    texts = ['"wind speed" * 2', "s = 'it''s'", "t > TIMESTAMP '2024-01-01T00:00:00Z'"]
    texts += ["CASE WHEN b THEN FALSE ELSE NULL END", "CAST(x AS int64) IN (1, -2, NULL)"]
    texts += ["NOT (d <> DATE '2024-01-01')", "-(-1)", "-x", "s IS NULL OR b"]
    for text in texts:
        tree = parse_expression(text)
        assert parse_expression(show(tree)) == tree


def test_decimal_casts_keep_precision_and_scale() -> None:
    assert parse_expression("x::decimal(5,1)") == Cast(
        Column("x"), DType(Kind.DECIMAL, precision=5, scale=1)
    )


def test_request_time_is_found_and_replaced() -> None:
    tree = parse_expression("CASE WHEN b THEN CAST(request_time() AS date) ELSE d END")
    assert uses_request_time(tree)
    assert infer(tree, SCHEMA) == DATE
    at = with_request_time(tree, Column("t"))
    assert at == parse_expression("CASE WHEN b THEN CAST(t AS date) ELSE d END")
    assert not uses_request_time(at)
    assert with_request_time(at, Column("u")) == at


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("x + i * 2", {"x": "DIRECT", "i": "DIRECT"}),
        ("x > i", {"x": "DIRECT", "i": "DIRECT"}),
        ("CASE WHEN b THEN x ELSE i END", {"b": "INDIRECT", "x": "DIRECT", "i": "DIRECT"}),
        ("if(x > 3 AND s IS NULL, 1, 0)", {"x": "INDIRECT", "s": "INDIRECT"}),
        ("CASE s WHEN 'a' THEN length(s) END", {"s": "DIRECT"}),
        ("if(coalesce(b, i > 1), x, 0)", {"b": "INDIRECT", "i": "INDIRECT", "x": "DIRECT"}),
        ("nullif(x, i)", {"x": "DIRECT", "i": "INDIRECT"}),
        ("coalesce(x, i)", {"x": "DIRECT", "i": "DIRECT"}),
        ("request_time() > t", {"t": "DIRECT"}),
        ("1 + 1", {}),
    ],
)
def test_column_lineage(text: str, columns: dict[str, str]) -> None:
    assert column_lineage(text) == columns
    assert column_lineage(parse_expression(text)) == columns


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("x + larry", 4, "There is no column 'larry'."),
        ("x + upper(ss)", 10, "Did you mean 's'?"),
        ("x * 2 + length(i)", 8, "must be a string or a list, not int64 (at character 8)"),
        ("CASE WHEN x > 1 THEN 1 WHEN s = i THEN 2 END", 28, "no common type"),
        ("CASE WHEN i THEN 1 END", 10, "must be bool"),
        ("x > 1 AND t::int64 = 3", 10, "can't be cast"),
        ("i BETWEEN 1 AND\n  s", 0, "CAST one of them (at line 1, character 0)"),
        ("x +\n  upper(ss)\n", 12, "Did you mean 's'? (at line 2, character 8)"),
    ],
)
def test_errors_of_types_say_where(text: str, position: int, says: str) -> None:
    with pytest.raises((TypeMismatch, InvalidExpression)) as caught:
        read_expression(text, SCHEMA)
    assert says in caught.value.message
    assert caught.value.position == position
    assert "\n" in text or f"(at character {position})" in caught.value.message


def test_errors_in_several_lines_name_the_line() -> None:
    with pytest.raises(
        InvalidExpression, match=r"\(at line 2, character 2\). Did you mean 'length'"
    ):
        parse_expression("x +\n  lenght(s)")
    with pytest.raises(InvalidExpression, match=r"can't be read at line 3, character 0"):
        parse_expression("x +\n\n)")


def test_a_text_that_is_right_gives_tree_and_type() -> None:
    assert read_expression("x + 1", SCHEMA) == (parse_expression("x + 1"), FLOAT64)
    assert read_expression("NULL", SCHEMA) == (Literal(None, None), None)
