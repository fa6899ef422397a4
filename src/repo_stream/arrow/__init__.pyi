from repo_stream.arrow.batching import (
    Row as Row,
    batches as batches,
    row_processor as row_processor,
)
from repo_stream.arrow.columns import (
    COLUMNS as COLUMNS,
    schema_of as schema_of,
)
from repo_stream.arrow.inference import (
    Inferred as Inferred,
)
from repo_stream.arrow.problems import (
    Problems as Problems,
    ScanProblem as ScanProblem,
)
from repo_stream.arrow.record_stream import (
    Records as Records,
    records as records,
)
from repo_stream.arrow.sources import (
    ArrowSource as ArrowSource,
    ArrowSources as ArrowSources,
    Given as Given,
    expand as expand,
)
from repo_stream.arrow.streams import (
    ArrowStream as ArrowStream,
)
from repo_stream.arrow.typed import (
    Table as Table,
    table as table,
)
from repo_stream.arrow.typed_batching import (
    TypedCollector as TypedCollector,
    TypedRow as TypedRow,
    typed_batches as typed_batches,
    typed_processor as typed_processor,
)
