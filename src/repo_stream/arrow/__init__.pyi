from repo_stream.arrow.batches import (
    Row as Row,
    batches as batches,
    row_processor as row_processor,
)
from repo_stream.arrow.columns import (
    COLUMNS as COLUMNS,
)
