"""Configuration of serving, read when a server or a pipeline starts: no part of an export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from ensemble.cache_config import CacheConfig
from ensemble.deadline import DeadlineConfig
from ensemble.filter_config import FilterConfig
from ensemble.json_log import JsonLogConfig
from ensemble.ordering_config import OrderingConfig
from ensemble.request_log_config import RequestLogConfig
from ensemble.security_config import SecurityConfig
from features.live.config import EventsConfig

Port = Annotated[int, Field(ge=0, le=65535)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ServingConfig:
    """Where Triton listens, and what the request path is told when it starts. How Triton batches is part of the
    exported model: see [export]."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every network of the machine."""
    http_port: Port = 8000
    """Port of the HTTP protocol; 0 takes a free one."""
    grpc_port: Port = 8001
    """Port of the gRPC protocol; 0 takes a free one."""
    metrics_port: Port = 8002
    """Port of the Prometheus metrics; 0 takes a free one."""
    ready_timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Longest time in seconds from start to ready."""
    stop_timeout_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Longest time in seconds for requests in flight at stop; then Triton is killed."""
    json_log: JsonLogConfig = Field(default_factory=JsonLogConfig)
    """The log as JSON lines."""
    drain_seconds: Annotated[float, Field(ge=0)] = 0.0
    """How long in seconds to go on serving after the signal to stop, while balancers take the server out."""
    max_revivals: Annotated[int, Field(ge=0)] = 3
    """How often within a minute a model process that died is brought back; once more, and the server ends."""
    keep_states: Annotated[int, Field(ge=1, le=100)] = 2
    """Earlier states of a rollout that stay staged, so that `rollback` can return to them."""
    candidate_timeout_seconds: Annotated[float, Field(gt=0)] = 1.0
    """Longest time in seconds for a release on trial; then the stable one answers."""
    filters: FilterConfig = Field(default_factory=FilterConfig)
    """What may be shown to anybody."""
    ordering: OrderingConfig = Field(default_factory=OrderingConfig)
    """Order of the slate."""
    security: SecurityConfig = Field(default_factory=SecurityConfig)
    """Keys and certificates."""
    events: EventsConfig = Field(default_factory=EventsConfig)
    """Live events: a user's new interactions reach the next slate."""
    request_log: RequestLogConfig = Field(default_factory=RequestLogConfig)
    """The sample of requests that is kept."""
    deadlines: DeadlineConfig = Field(default_factory=DeadlineConfig)
    """How long a reply and its parts may take."""
    cache: CacheConfig = Field(default_factory=CacheConfig)
    """What stands in for parts that are down."""


def told_to_models(config: ServingConfig) -> str:
    """As JSON, for model processes, whose folder is another: a relative stock file counts from this process's."""
    if stock := config.filters.stock.file:
        filters = replace(config.filters, stock=replace(config.filters.stock, file=str(Path(stock).absolute())))
        config = replace(config, filters=filters)
    return TypeAdapter(ServingConfig).dump_json(config).decode()
