"""Stand-ins for the services that the shipped servers use: on 127.0.0.1, over real HTTP, failing as they are told to.

For the demo and the tests; each runs as a process of its own: `python -m perdure.servers.standins.weather`.
"""
