"""A run as a local web page and an HTTP service: `frozenbench serve`.

`server` listens and ends, `guard` decides what reaches the application, `application` answers, `batches` runs the
network for the images of all waiting requests, and `nearest` finds training pictures. Starlette and uvicorn are the
extra `serve`, so the modules are imported where they are used.
May import: figures, page, classify.predict, classify.runs, featurize.images, featurize.core.
"""
