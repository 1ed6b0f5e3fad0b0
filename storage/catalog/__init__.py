"""The catalog: which data sets the node holds, where each one lies, and what C-FIND may ask about them.

It is an index, not the proof: the spool and the blobs can recreate it. Modules, ground floor first:
`attributes` (the one table), `person_name` and `values` (text as it is kept), `models`, `migrations`,
`database`, `entering`, `recording`, `settling`, `query`, `matching`, `search`, `statistics`, and the face, `catalog`.
"""
