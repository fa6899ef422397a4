from repo_stream.testing.accounts import (
    AtprotoAccount as AtprotoAccount,
    AtprotoServer as AtprotoServer,
)
from repo_stream.testing.car_server import (
    CarServer as CarServer,
)
from repo_stream.testing.made import (
    COLLECTIONS as COLLECTIONS,
    made_car as made_car,
    made_records as made_records,
)
from repo_stream.testing.network import (
    AtprotoNetwork as AtprotoNetwork,
)
from repo_stream.testing.repos import (
    DID as DID,
    REV as REV,
    BuiltRepo as BuiltRepo,
    Entry as Entry,
    Link as Link,
    Order as Order,
    RawRecord as RawRecord,
    build_car as build_car,
    build_repo as build_repo,
    car_header as car_header,
    cid_of as cid_of,
    commit as commit,
    encode as encode,
    key_height as key_height,
    node as node,
    section as section,
    tid as tid,
    tree_of as tree_of,
    varint as varint,
    write_car as write_car,
)
from repo_stream.testing.serving import (
    Fault as Fault,
)
from repo_stream.testing.signing import (
    SigningKey as SigningKey,
)
