"""Load for a Holdgate deployment, measured from the caller's side, with an audit of every unit at the end."""
