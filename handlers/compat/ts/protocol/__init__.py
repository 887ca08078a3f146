"""ts.protocol"""
