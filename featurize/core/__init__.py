"""What every room needs: errors, console output, files written whole, versions, the connection to a cluster.

May import: nothing of ours.
"""
