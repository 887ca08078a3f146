"""ts.metrics"""
