"""The application scheduler: a pure state machine, events and a clock in, actions out.

It knows live graphs, queues and workers; it knows no sockets, threads, values or clocks of its own.
"""
