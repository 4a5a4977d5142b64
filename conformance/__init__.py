"""A conformance suite for OCI container runtimes.

    python -m conformance --runtime runc --runtime crun --report report/

Every requirement of the OCI runtime specification that can be observed from outside a runtime has at least one case
here (`requirements.tsv` is the list). A case builds its own bundle, drives the runtime through the OCI command line
only (create, start, state, kill, delete), and looks at the container from inside and from outside. Nothing in this
package knows any runtime's code: it runs with a plain Python 3.11 and pytest, against any runtime.
"""
