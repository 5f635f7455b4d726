"""The only room that touches a decoder or an encoder."""
