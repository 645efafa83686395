"""How the reference model is made: worlds of every sort, tasks about them, and the training itself.

From the top down: `train` (the run), `feed` (data made ahead by worker processes), `optimizers`, `network`
(the model), `rows` (packing), `mixture` (which tasks, when), `answers`, `records`, `passage_tasks`,
`question_tasks`, `agent` (the tasks), `contexts` and `passages` (the texts), `worlds` (names and facts).
"""
