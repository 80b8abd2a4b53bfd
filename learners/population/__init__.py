"""Population search: CMA-ES on islands that share one pool of evaluators.

::

    Archipelago ── Island ── CmaEs                  one distribution: sample, update
       ask/tell      │  └─── ResultTable            who was asked, what came back
                     ├────── Repetition             episodes of a candidate, more as noise decides
                     └────── Restarts               what follows when it has converged

:class:`~learners.search_server.SearchServer` hands the tasks out, and a
:class:`~learners.population.journal.ResultJournal` keeps every result across a crash.
"""

from learners.population.archipelago import Archipelago
from learners.population.journal import ResultJournal
from learners.population.records import Evaluation, GenerationRecord

__all__ = ["Archipelago", "Evaluation", "GenerationRecord", "ResultJournal"]
