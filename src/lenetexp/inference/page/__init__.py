"""A page to draw on, and what trained nets make of the drawing: scripts/draw.py.

answer   a picture step by step into the nets: how it is prepared, layer by layer, the probabilities
gallery  the test images of the nets' dataset, and which of them each net got wrong
keep     drawings kept as a labelled set
guard    which requests are answered at all
app      what the page asks for; page.html is the page itself
launch   the command: finds the runs, binds the address, serves until it is interrupted
"""
