"""The HTTP side of a node: page, API, STOW-RS, health and metrics. Nothing is built, nothing is fetched from elsewhere.

`app` joins the routes, `guard` stands before all of them, `gate` knows who asks, `server` listens.
"""
