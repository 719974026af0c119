"""Where models come from: one file per kind of source. `kind:rest` names one; the registry is this folder."""
