"""The only room that knows ComfyUI's insides. Everything here is `clone -> register -> return`."""
