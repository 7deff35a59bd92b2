"""Every error that a user can meet.

One base, one leaf per cause. A leaf has a stable `code` (what programs match on), typed attributes
(what programs read), a message that says what is wrong, where and what to do, and a class fact
`retryable`. Status codes of gRPC and HTTP are known only at the edges, in `serving`.

A missing or expired feature value is data (a status), not an error.

Each area has a file of its own; all of it is imported from here.
"""

from __future__ import annotations

from featurestore.errors.base import FeatureStoreError as FeatureStoreError
from featurestore.errors.base import InternalError as InternalError
from featurestore.errors.base import suggest as suggest
from featurestore.errors.changes import ChangeError as ChangeError
from featurestore.errors.changes import DestructiveChange as DestructiveChange
from featurestore.errors.changes import NotApplied as NotApplied
from featurestore.errors.changes import ProductionImpact as ProductionImpact
from featurestore.errors.changes import StalePlan as StalePlan
from featurestore.errors.changes import StreamWrites as StreamWrites
from featurestore.errors.changes import UnsupportedByEngine as UnsupportedByEngine
from featurestore.errors.definitions import CyclicReference as CyclicReference
from featurestore.errors.definitions import DefinitionError as DefinitionError
from featurestore.errors.definitions import DuplicateName as DuplicateName
from featurestore.errors.definitions import InsecureSettings as InsecureSettings
from featurestore.errors.definitions import InvalidExpression as InvalidExpression
from featurestore.errors.definitions import InvalidFunction as InvalidFunction
from featurestore.errors.definitions import InvalidName as InvalidName
from featurestore.errors.definitions import InvalidRepository as InvalidRepository
from featurestore.errors.definitions import InvalidSettings as InvalidSettings
from featurestore.errors.definitions import TypeMismatch as TypeMismatch
from featurestore.errors.definitions import UnknownReference as UnknownReference
from featurestore.errors.lifecycle import ApprovalRequired as ApprovalRequired
from featurestore.errors.lifecycle import GateFailed as GateFailed
from featurestore.errors.lifecycle import IllegalTransition as IllegalTransition
from featurestore.errors.lifecycle import LifecycleError as LifecycleError
from featurestore.errors.lifecycle import LineageIncomplete as LineageIncomplete
from featurestore.errors.lifecycle import SignatureMismatch as SignatureMismatch
from featurestore.errors.registry import AmbiguousRecord as AmbiguousRecord
from featurestore.errors.registry import CommitConflict as CommitConflict
from featurestore.errors.registry import InvalidRecord as InvalidRecord
from featurestore.errors.registry import MigrationNeeded as MigrationNeeded
from featurestore.errors.registry import RecordNotFound as RecordNotFound
from featurestore.errors.registry import RegistryError as RegistryError
from featurestore.errors.registry import SchemaTooNew as SchemaTooNew
from featurestore.errors.requests import InvalidEntityFrame as InvalidEntityFrame
from featurestore.errors.requests import InvalidJoinKey as InvalidJoinKey
from featurestore.errors.requests import InvalidRequest as InvalidRequest
from featurestore.errors.requests import InvalidRequestInput as InvalidRequestInput
from featurestore.errors.requests import InvalidRows as InvalidRows
from featurestore.errors.requests import InvalidSearch as InvalidSearch
from featurestore.errors.requests import LimitExceeded as LimitExceeded
from featurestore.errors.requests import MissingJoinKey as MissingJoinKey
from featurestore.errors.requests import MissingRequestInput as MissingRequestInput
from featurestore.errors.requests import NameClash as NameClash
from featurestore.errors.requests import PermissionDenied as PermissionDenied
from featurestore.errors.requests import RequestError as RequestError
from featurestore.errors.requests import RequestTimeout as RequestTimeout
from featurestore.errors.requests import Unauthenticated as Unauthenticated
from featurestore.errors.requests import UnknownFeature as UnknownFeature
from featurestore.errors.requests import UnknownService as UnknownService
from featurestore.errors.requests import UnknownSource as UnknownSource
from featurestore.errors.requests import UnknownView as UnknownView
from featurestore.errors.servers import AddressUnavailable as AddressUnavailable
from featurestore.errors.servers import ServerError as ServerError
from featurestore.errors.servers import ServerOverloaded as ServerOverloaded
from featurestore.errors.servers import ServerTimeout as ServerTimeout
from featurestore.errors.servers import ServerUnavailable as ServerUnavailable
from featurestore.errors.stores import CorruptLog as CorruptLog
from featurestore.errors.stores import CorruptPlan as CorruptPlan
from featurestore.errors.stores import CorruptRow as CorruptRow
from featurestore.errors.stores import FileNotWritten as FileNotWritten
from featurestore.errors.stores import InvalidValue as InvalidValue
from featurestore.errors.stores import MemoryExceeded as MemoryExceeded
from featurestore.errors.stores import SnapshotMissing as SnapshotMissing
from featurestore.errors.stores import SourceMissing as SourceMissing
from featurestore.errors.stores import SourceSchemaChanged as SourceSchemaChanged
from featurestore.errors.stores import StoreAccessDenied as StoreAccessDenied
from featurestore.errors.stores import StoreError as StoreError
from featurestore.errors.stores import StoreExhausted as StoreExhausted
from featurestore.errors.stores import StoreFull as StoreFull
from featurestore.errors.stores import StoreReadOnly as StoreReadOnly
from featurestore.errors.stores import StoreTimeout as StoreTimeout
from featurestore.errors.stores import StoreUnavailable as StoreUnavailable
