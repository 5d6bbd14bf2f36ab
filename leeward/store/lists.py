"""`column IN (:many)` on PostgreSQL: one array, so that it is one statement, prepared once, however many there are.

A list written out has a parameter a value. Each length would be a statement of its own, parsed and planned anew.
"""

from typing import Any

from sqlalchemy import any_, bindparam
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import BinaryExpression, BindParameter
from sqlalchemy.sql.operators import in_op


@compiles(BinaryExpression, "postgresql")
def as_array(expression: BinaryExpression[Any], compiler: Any, **options: Any) -> str:
    """Named expanding parameters alone: the values of others are part of how SQLAlchemy keeps statements."""
    given = expression.right
    named = isinstance(given, BindParameter) and given.expanding and not given.unique
    if expression.operator is not in_op or not named:
        return str(compiler.visit_binary(expression, **options))
    many = bindparam(given.key, type_=ARRAY(given.type))
    return str(compiler.process(expression.left == any_(many), **options))
