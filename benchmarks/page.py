"""docs/benchmarks.md, written by `make bench`: what every figure is, and what it came to."""

from pathlib import Path
from typing import Final

from benchmarks import tables
from benchmarks.machine import description
from benchmarks.measured import Measured

_TEXT: Final = Path(__file__).with_name("page.md")


def page(found: Measured) -> str:
    """The page, as Markdown."""
    return _TEXT.read_text(encoding="utf-8").format(
        budgets=tables.budgets(found.figures()).text(),
        machine=description(),
        server=tables.server(found.server).text(),
        reply_bytes=found.server.reply_bytes,
        redis=tables.redis(found.redis).text(),
        memory=tables.memory(found.memory).text(),
        growth=tables.growth(found.growth).text(),
        throughput=tables.throughput(found.throughput).text(),
        half_waited=f"{found.throughput.half.waited:.0%}",
        hot_ceiling=f"{1e6 / found.throughput.hot.store_us:,.0f}",
        workers=tables.workers(found.workers).text(),
        audited=tables.audited(found.audited).text(),
        ingest=tables.ingest(found.ingest).text(),
    )
