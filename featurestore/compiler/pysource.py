"""Expressions as one generated Python function for a whole view: no tree is walked per row.

`python_function` is for one row, `python_batch` for the columns of many. Both give text, not code,
so that it can be read, stored and compared; `exprlib.load` makes a function of it. `losses` in its
namespace counts values that are NULL for want of a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from featurestore.compiler.pyrows import RowCode
from featurestore.compiler.pyvectors import VectorCode, is_vector, row_parts
from featurestore.definitions.expression import Cast, Expression, columns_of, infer, inferred
from featurestore.dtypes import DType

VECTOR_ROWS_MIN = 80
"""Below so many rows a loop over them is faster than numpy (measured)."""

Output = tuple[str, Expression, DType]
"""Name, expression and type of one result."""


def python_function(name: str, arguments: Mapping[str, DType], outputs: Sequence[Output]) -> str:
    """The source text of `def name(request_time_us, a0, a1, …)`, which returns a tuple of the
    outputs in their order. The arguments are values of the columns `arguments` in that order, plain
    Python as `exprlib` says, None for NULL; floats are finite.

    Raises `InvalidExpression` and `TypeMismatch` as `infer` does.
    """
    trees = _trees(arguments, outputs)
    columns = {column: (f"a{i}", dtype) for i, (column, dtype) in enumerate(arguments.items())}
    code = RowCode(columns, list(enumerate(trees)), indent=1)
    found = _tuple(code.results)
    head = ["    lost = 0"] if code.loses else []
    tail = ["    if lost:", f"        losses.count(lost, {found})"] if code.loses else []
    return _source(
        [name for name, _, _ in outputs],
        code.library,
        [
            f"def {name}({', '.join(['request_time_us', *(v for v, _ in columns.values())])}):",
            *head,
            *code.lines,
            *tail,
            f"    return {found}",
        ],
    )


def python_batch(name: str, arguments: Mapping[str, DType], outputs: Sequence[Output]) -> str:
    """The source text of `def name(request_time_us, n, c0, c1, …)`, which returns a tuple of lists:
    for each output its values in the `n` rows. The arguments are lists of what the arguments of
    `python_function` are; the values are the same as its.

    Numbers, instants and truth values are computed by numpy, column by column; all else in one loop
    over the rows.
    """
    trees = list(enumerate(_trees(arguments, outputs)))
    names = {column: f"c{i}" for i, column in enumerate(arguments)}
    fast = [(p, tree) for p, tree in trees if is_vector(tree, arguments)]
    head = f"{', '.join(['request_time_us', 'n', *names.values()])}"
    rows, library = _loop(trees, arguments, names, len(trees))
    found = _tuple([f"r{position}" for position, _ in trees])
    lines = [f"def {name}({head}):", *rows, f"    return {found}"]
    if fast:
        lines[0] = f"def {name}_rows({head}):"
        lines += [
            f"def {name}({head}):",
            f"    if n < {VECTOR_ROWS_MIN}:",
            f"        return {name}_rows({head})",
        ]
        parts = list(dict.fromkeys(p for _, tree in fast for p in row_parts(tree, arguments)))
        given = list(enumerate(parts, len(trees)))
        loop, more = _loop(
            [pair for pair in trees if pair not in fast] + given, arguments, names, len(trees)
        )
        columns = {part: (f"r{p}", infer(part, arguments)) for p, part in given}
        code = VectorCode(arguments, names, columns, [tree for _, tree in fast])
        for position, tree in fast:
            code.output(position, tree)
        lines += [*loop, "    with _v_quietly():", *code.lines, f"    return {found}"]
        library |= more | code.library
    return _source([output for output, _, _ in outputs], library, lines)


def _loop(
    outputs: Sequence[tuple[int, Expression]],
    arguments: Mapping[str, DType],
    names: Mapping[str, str],
    counted: int,
) -> tuple[list[str], dict[str, str]]:
    """One pass over the rows that fills a list for each output; positions from `counted` on are
    parts of others and can't lose."""
    if not outputs:
        return [], {}
    used = list(dict.fromkeys(c for _, tree in outputs for c in columns_of(tree)))
    columns = {column: (f"x{names[column]}", arguments[column]) for column in used}
    code = RowCode(columns, outputs, indent=2)
    lines = [f"    r{position} = []" for position, _ in outputs]
    variables = [variable for variable, _ in columns.values()]
    if len(used) > 1:
        rows = ", ".join(names[c] for c in used)
        lines.append(f"    for {', '.join(variables)} in _zip({rows}):")
        code.library["_zip"] = "rows_of"
    elif used:
        lines.append(f"    for {variables[0]} in {names[used[0]]}:")
    else:
        lines.append("    for _ in _range(n):")
        code.library["_range"] = "numbers_to"
    if code.loses:
        lines.append("        lost = 0")
    lines += code.lines
    for (position, _), result in zip(outputs, code.results, strict=True):
        lines.append(f"        r{position}.append({result})")
    if code.loses:
        found = dict(zip((p for p, _ in outputs), code.results, strict=True))
        values = _tuple([found.get(position, "0") for position in range(counted)])
        lines += ["        if lost:", f"            losses.count(lost, {values})"]
    return lines, code.library


def _trees(arguments: Mapping[str, DType], outputs: Sequence[Output]) -> list[Expression]:
    return [
        tree if inferred(tree, arguments) == dtype else Cast(tree, dtype)
        for _, tree, dtype in outputs
    ]


def _source(outputs: Sequence[str], library: Mapping[str, str], lines: Sequence[str]) -> str:
    imports = [f"{short} = exprlib.{path}" for short, path in library.items()]
    return "\n".join([f"losses = exprlib.Losses({tuple(outputs)!r})", *imports, *lines, ""])


def _tuple(texts: Sequence[str]) -> str:
    return f"({''.join(f'{text}, ' for text in texts)})"
