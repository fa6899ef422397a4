from repo_stream.testing.car_server import (
    CarServer as CarServer,
)
from repo_stream.testing.made import (
    COLLECTIONS as COLLECTIONS,
)
from repo_stream.testing.made import (
    made_car as made_car,
)
from repo_stream.testing.made import (
    made_records as made_records,
)
from repo_stream.testing.repos import (
    DID as DID,
)
from repo_stream.testing.repos import (
    REV as REV,
)
from repo_stream.testing.repos import (
    BuiltRepo as BuiltRepo,
)
from repo_stream.testing.repos import (
    Entry as Entry,
)
from repo_stream.testing.repos import (
    Link as Link,
)
from repo_stream.testing.repos import (
    Order as Order,
)
from repo_stream.testing.repos import (
    RawRecord as RawRecord,
)
from repo_stream.testing.repos import (
    build_car as build_car,
)
from repo_stream.testing.repos import (
    build_repo as build_repo,
)
from repo_stream.testing.repos import (
    car_header as car_header,
)
from repo_stream.testing.repos import (
    cid_of as cid_of,
)
from repo_stream.testing.repos import (
    commit as commit,
)
from repo_stream.testing.repos import (
    encode as encode,
)
from repo_stream.testing.repos import (
    key_height as key_height,
)
from repo_stream.testing.repos import (
    node as node,
)
from repo_stream.testing.repos import (
    section as section,
)
from repo_stream.testing.repos import (
    tid as tid,
)
from repo_stream.testing.repos import (
    tree_of as tree_of,
)
from repo_stream.testing.repos import (
    varint as varint,
)
from repo_stream.testing.repos import (
    write_car as write_car,
)
