"""The tables of a README, which stand between two marks."""

import re

from bench_harness.errors import BenchError

BEGIN, END = "<!-- tables: made from results/ by --report -->", "<!-- end of tables -->"


def with_tables(text: str, made: str) -> str:
    """Return the README's text with these tables between its marks. Raises BenchError when it lacks them."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise BenchError(f"the README lacks the lines {BEGIN} and {END}")
    return pattern.sub(lambda _: f"{BEGIN}\n{made}\n{END}", text)
