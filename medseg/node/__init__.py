"""The PACS node: studies come in, pipelines run on those that match, checked results go out.

Data flow one way: `dimse_server`, `stow`, `sources` -> `intake` -> `completeness` -> `rules` -> `job_queue` ->
`workers` -> `results` -> `medseg.pacs.outbox`; `web` looks on and `service` joins them. What each has done stands
in the database (`tables`) before it is acknowledged, so any of them may be killed at any moment.
"""
