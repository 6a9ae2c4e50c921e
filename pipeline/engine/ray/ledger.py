"""Run the ledger of a job as an actor."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.engine.ledger import Ledger
from pipeline.engine.watchdog import Note


def start_ledger() -> Any:
    """Start the ledger on the driver's node: if that node is lost, so is the job."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)(Ledger)
    return actor.remote()


def note_to(ledger: Any) -> Note:
    """Return a function that tells the actor why an attempt is being ended."""
    return lambda key, kind, cause: ray.get(ledger.note.remote(key, kind, cause), timeout=5)
